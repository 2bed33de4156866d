"""The report's figures: inline SVG whose colours are CSS variables, so that one drawing serves light and dark pages."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

PALETTE_SIZE = 8
_MARKERS = "os^DvPX*<>"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)))
# matplotlib knows no CSS variables: it draws in colours that nobody would choose, which are replaced in the SVG text.
_ROLES = ("ink", "muted", "rule", "shade", "paper")
_COLOURS = {f"#0101{i:02x}": f"var(--{role})" for i, role in enumerate(_ROLES)} | {
    f"#0102{i:02x}": f"var(--arm-{i})" for i in range(PALETTE_SIZE)
}
_INK, _MUTED, _RULE, _SHADE, _PAPER, *_ARMS = _COLOURS
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "lines.markeredgewidth": 0.6,
}
_MOST_POINTS = 400
# Shares that never get above this are drawn on an axis of their own size.
_SMALL_SHARE = 0.25


@dataclass(frozen=True)
class Axis:
    """A label with its unit; shares are drawn in percent."""

    label: str
    percent: bool = False


# What an RL run logs that is worth a look, by its name in the metrics.
PANELS = {
    "reward": Axis("reward: right answers (%)", percent=True),
    "scratchpad_rate": Axis("responses with a scratchpad (%)", percent=True),
    "live_groups": Axis("live groups (%)", percent=True),
    "entropy": Axis("entropy (nats per token)"),
    "response_tokens": Axis("response length (tokens)"),
    "truncated": Axis("truncated responses (%)", percent=True),
    "grad_norm": Axis("gradient norm before clipping"),
    "explained_variance": Axis("critic: explained variance"),
    "kl": Axis("KL to the reference (nats per token)"),
    "frontier": Axis("ladder: rungs climbed"),
}
LOSS = Axis("loss (nats per token)")


@dataclass(frozen=True)
class Mark:
    """How one arm is told from the others: by colour, marker and dashes."""

    colour: str
    marker: str
    dashes: Any


def mark_of(index: int) -> Mark:
    """The mark of the arm with this index; colour, marker and dashes repeat together only after 40 arms."""
    return Mark(_ARMS[index % len(_ARMS)], _MARKERS[index % len(_MARKERS)], _DASHES[index % len(_DASHES)])


@dataclass(frozen=True)
class SeedLine:
    """Values of one seed at x; `low` and `high` are the ends of its intervals where there are any."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class ArmLines:
    """All seeds of an arm."""

    mark: Mark
    seeds: tuple[SeedLine, ...]

    def mean(self) -> SeedLine:
        """The mean over seeds, at the x that all of them have."""
        if not self.seeds:
            return SeedLine((), ())
        values = [dict(zip(line.x, line.y, strict=True)) for line in self.seeds]
        shared = sorted(set.intersection(*(set(v) for v in values)))
        return SeedLine(tuple(shared), tuple(sum(v[x] for v in values) / len(values) for x in shared))


def moving_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Centred mean over up to `window` neighbours (fewer at the ends).

    >>> moving_mean([0, 3, 6, 3], 3).tolist()
    [1.5, 3.0, 4.0, 4.5]
    """
    array = np.asarray(values, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    index = np.arange(len(array))
    low, high = np.maximum(index - window // 2, 0), np.minimum(index + (window - 1) // 2 + 1, len(array))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means


def smoothing_window(steps: int) -> int:
    """An odd window of about a twentieth of the curve; 1 (none) below 40 steps."""
    return 1 if steps < 40 else 2 * (steps // 40) + 1


def axis_and_ticks(labels: Sequence[str]) -> tuple[str, list[str]]:
    """The name that all labels share, and what differs: `digits=4` stands as 4 on an axis `digits`.

    >>> axis_and_ticks(["digits=1", "digits=2"]), axis_and_ticks(["easy", "hard"])
    (('digits', ['1', '2']), ('cell', ['easy', 'hard']))
    """
    parts = [label.rpartition("=") for label in labels]
    if labels and len({name for name, equals, _ in parts if equals}) == 1 and all(equals for _, equals, _ in parts):
        return parts[0][0], [value for _, _, value in parts]
    return "cell", list(labels)


@dataclass(frozen=True)
class Band:
    """Shares that others have published, at some x."""

    label: str
    x: tuple[int, ...]
    low: float
    high: float


def accuracy_figure(
    arms: Sequence[ArmLines],
    ticks: Sequence[str],
    beyond: Sequence[bool],
    *,
    x_label: str,
    narrow: bool,
    salt: str,
    bands: Sequence[Band] = (),
) -> str:
    """Accuracy (y, shares) by cell (x = 0, 1, ...) of each arm; the cells `beyond` training are shaded.

    One seed is drawn with its intervals. Of several, each is drawn faintly, and their mean boldly.
    """
    width, height, size = (342, 350, 11) if narrow else (880, 420, 13)
    with _drawing(salt, font_size=size):
        figure, axes = _axes(width, height, left=44 if narrow else 54, bottom=44)
        _shade(axes, beyond, narrow=narrow)
        for band in bands:
            _band(axes, band)
        for index, arm in enumerate(arms):
            shift = (index - (len(arms) - 1) / 2) * min(0.09, 0.6 / len(arms))
            _cell_lines(axes, arm, shift, narrow=narrow)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.5, len(ticks) - 0.5)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        _label(axes, Axis("accuracy (%)", percent=True), x_label)
        return _svg(figure, "Accuracy by cell of each arm, with 95% intervals; the tables below hold the numbers.")


def curve_figure(arms: Sequence[ArmLines], axis: Axis, *, salt: str) -> str:
    """One quantity by step: raw values faintly, and boldly the mean over seeds as a moving mean."""
    with _drawing(salt, font_size=11):
        figure, axes = _axes(300, 210, left=42, bottom=40)
        for index, arm in enumerate(arms):
            style = {"color": arm.mark.colour, "zorder": 3 + index / 100}
            mean = arm.mean()
            window = smoothing_window(len(mean.y))
            if window > 1 or len(arm.seeds) > 1:
                for seed in arm.seeds:
                    axes.plot(*_thinned(seed), linewidth=0.8, alpha=0.28, **style)
            thin = _thinned(SeedLine(mean.x, tuple(moving_mean(mean.y, window).tolist())))
            every = max(1, len(thin[0]) // 4)
            axes.plot(
                *thin,
                linewidth=1.7,
                linestyle=arm.mark.dashes,
                marker=arm.mark.marker,
                markersize=6,
                markeredgecolor=_PAPER,
                markevery=(index % every, every),
                **style,
            )
        values = [y for arm in arms for seed in arm.seeds for y in seed.y]
        top, low = max([1e-9, *values]), min([0.0, *values])
        axes.set_ylim(max(low * 1.08, -1.0), 1 if axis.percent and top > _SMALL_SHARE else top * 1.08)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.locator_params(axis="y", nbins=4)
        _label(axes, axis, "step")
        return _svg(figure, f"{axis.label} by step.")


def curve_figures(panels: Iterable[tuple[str, Axis, Sequence[ArmLines]]]) -> list[str]:
    """Small multiples of (name, axis, arms); a quantity that nobody logged has no drawing."""
    return [curve_figure(arms, axis, salt=name) for name, axis, arms in panels if any(arm.seeds for arm in arms)]


def legend_key(mark: Mark, *, salt: str) -> str:
    """A short line in an arm's colour, dashes and marker, to stand before its name."""
    with _drawing(salt, font_size=11):
        figure = Figure(figsize=(38 / 72, 14 / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 38)
        axes.set_ylim(0, 14)
        style: dict[str, Any] = {"color": mark.colour, "clip_on": False}
        axes.plot([2, 36], [7, 7], linestyle=mark.dashes, linewidth=2, **style)
        axes.plot([19], [7], marker=mark.marker, markersize=8, markeredgecolor=_PAPER, **style)
        return _svg(figure, "")


def _drawing(salt: str, *, font_size: float) -> Any:
    """All settings that the drawing depends on: the same input gives the same bytes whatever the user's own are."""
    return rc_context(_STYLE | {"svg.hashsalt": salt, "font.size": font_size})


def _axes(width: float, height: float, *, left: float, bottom: float) -> tuple[Any, Any]:
    figure = Figure(figsize=(width / 72, height / 72))
    box = (left / width, bottom / height, (width - left - 8) / width, (height - bottom - 24) / height)
    return figure, figure.add_axes(box)


def _label(axes: Any, axis: Axis, x_label: str) -> None:
    """The unit of y stands above its axis, level, where a phone has the room."""
    axes.set_xlabel(x_label)
    axes.annotate(axis.label, (0, 1), (-34, 10), "axes fraction", textcoords="offset points", color=_MUTED)
    if axis.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))


def _shade(axes: Any, beyond: Sequence[bool], *, narrow: bool) -> None:
    for index, is_beyond in enumerate(beyond):
        if is_beyond:
            axes.axvspan(index - 0.5, index + 0.5, color=_SHADE, linewidth=0, zorder=0)
    if any(beyond):
        text = "beyond training"
        right = max(i for i, is_beyond in enumerate(beyond) if is_beyond) + 0.5
        axes.annotate(text, (right, 1), (-6, 10), ("data", "axes fraction"), "offset points", ha="right", color=_MUTED)


def _band(axes: Any, band: Band) -> None:
    left, right = min(band.x) - 0.5, max(band.x) + 0.5
    axes.fill_between([left, right], band.low, band.high, color=_MUTED, alpha=0.22, linewidth=0, zorder=1)
    axes.annotate(band.label, (right, band.low), (0, -13), "data", "offset points", ha="right", color=_MUTED)


def _cell_lines(axes: Any, arm: ArmLines, shift: float, *, narrow: bool) -> None:
    mark, several = arm.mark, len(arm.seeds) > 1
    for line in arm.seeds:
        x = np.asarray(line.x) + shift
        style = {"color": mark.colour, "alpha": 0.4 if several else 1.0, "clip_on": False}
        axes.vlines(x, line.low, line.high, linewidth=1.2, zorder=2, **style)
        if several:
            axes.plot(x, line.y, linewidth=0.7, marker=mark.marker, markersize=3, zorder=2, **style | {"alpha": 0.25})
    mean = arm.mean()
    axes.plot(
        np.asarray(mean.x) + shift,
        mean.y,
        color=mark.colour,
        linestyle=mark.dashes,
        linewidth=1.5 if narrow else 1.8,
        marker=mark.marker,
        markersize=6.5 if narrow else 8.5,
        markeredgecolor=_PAPER,
        clip_on=False,
        zorder=3,
    )


def _thinned(line: SeedLine) -> tuple[list[float], list[float]]:
    """At most `_MOST_POINTS` points, each the mean of equally many neighbours: a long run makes no heavy page."""
    size = -(-len(line.x) // _MOST_POINTS) or 1
    cuts = range(0, len(line.x), size)
    return tuple([float(np.mean(values[i : i + size])) for i in cuts] for values in (line.x, line.y))  # type: ignore[return-value]


def _svg(figure: Any, label: str) -> str:
    """The drawing as an inline element: no size, font or metadata of its own, colours as variables, few ids."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = " ".join(buffer.getvalue().split())
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    role = f'role="img" aria-label="{label}"' if label else 'aria-hidden="true"'
    svg = re.sub(r"^.*?<svg[^>]*>", f"<svg {role} {view_box[0] if view_box else ''}>", svg)
    svg = re.sub(r'(?<=<g) id="[^"]*"|font-family: [^;"]*;?| transform="rotate\(-0 [^"]*"', "", svg)
    svg = _without_references(svg)
    return re.sub("|".join(_COLOURS), lambda found: _COLOURS[found[0]], svg).replace("> <", ">\n<")


def _without_references(svg: str) -> str:
    """Each `<use>` of a marker replaced by the marker: a legend's key stands on the page many times, an id may not."""
    marker = r'<path id="(\w+)" d="([^"]*)"[^>]*/>'
    shapes: dict[str, str] = dict(re.findall(marker, svg))
    svg = re.sub(rf"<defs> (?:{marker} )?</defs>", "", svg)
    use = r'<use xlink:href="#(\w+)" x="([^"]*)" y="([^"]*)"'
    return re.sub(use, lambda u: f'<path d="{shapes[u[1]]}" transform="translate({u[2]} {u[3]})"', svg)
