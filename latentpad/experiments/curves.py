"""Accuracy against what was spent: rollouts or examples, tokens, seconds, with all that an arm started from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.experiments.finished import FinishedArm, FinishedRun

    Json = dict[str, Any]

# As on the report's light page: ink, muted, rules, then an arm each.
_INK, _MUTED, _RULE = "#17181a", "#5b6066", "#dcdee0"
_ARMS = ("#6a6d70", "#0b62a8", "#b9540a", "#007a5a", "#a8387f", "#8a6d00", "#24839f", "#5a4fb0")
_PANELS = {
    "samples": "documents, examples or rollouts",
    "tokens": "tokens generated and trained on",
    "seconds": "seconds of training",
}
_MANY_TIMES = 20  # the least ratio of the greatest cost to the smallest that is drawn on a log axis


@dataclass(frozen=True, slots=True)
class Point:
    """What a run had reached after a step, and spent by then, its start's costs included.

    Attributes:
        step: of its own training.
        accuracy: the mean over cells.
        samples: documents, examples or rollouts.
        tokens: generated and trained on.
        seconds: of training.
    """

    step: int
    accuracy: float
    samples: float
    tokens: float
    seconds: float


def run_points(run: FinishedRun, cells: Sequence[str], decoding: str) -> list[Point]:
    """A point for each step at which these cells were evaluated, in order; the last is the finished run.

    Evaluations during training are on fewer problems (`evaluation.every_problems`) than the last. Where the start of
    a run is not a run here, its costs are not known, and the run's own stand alone.
    """
    before = run.start_costs or dict.fromkeys(run.costs, 0.0)
    costs = {0: dict.fromkeys(run.costs, 0.0), **_logged(run.folder / "metrics.jsonl"), run.step: run.costs}
    points = []
    for file in run.folder.glob("eval/*.json"):
        if not file.stem.isdecimal() or int(file.stem) > run.step or int(file.stem) not in costs:
            continue
        found = json.loads(file.read_text(encoding="utf-8"))["cells"]
        accuracy = {c["cell"]: c["accuracy"] for c in found if c["decoding"] == decoding}
        if any(cell not in accuracy for cell in cells):
            continue
        spent = {name: before[name] + cost for name, cost in costs[int(file.stem)].items()}
        tokens = spent["tokens_generated"] + spent["tokens_trained"]
        mean = fmean(accuracy[cell] for cell in cells)
        points.append(Point(int(file.stem), mean, spent["samples"], tokens, spent["seconds"]))
    return sorted(points, key=lambda point: point.step)


def _logged(file: Path) -> dict[int, dict[str, float]]:
    """Costs by step; a last line that a kill cut short is left out."""
    costs = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        counts = {name: float(record.get(name, 0)) for name in ("samples", "tokens_generated", "tokens_trained")}
        costs[int(record["step"])] = counts | {"seconds": float(record.get("timing", {}).get("total_seconds", 0.0))}
    return costs


def curves(arms: Sequence[FinishedArm], seeds: Sequence[int], cells: Sequence[str], decoding: str) -> list[Json]:
    """Points of every arm and seed."""
    return [
        {"arm": arm.name, "seed": seed, "points": [asdict(p) for p in run_points(arm.runs[seed], cells, decoding)]}
        for arm in arms
        for seed in seeds
    ]


def mean_points(lines: Sequence[Sequence[Json]]) -> list[Json]:
    """The mean over seeds of costs and accuracy, at the steps that all of them have.

    >>> mean_points([[{"step": 5, "accuracy": 0.2}], [{"step": 5, "accuracy": 0.4}, {"step": 6, "accuracy": 1.0}]])
    [{'step': 5, 'accuracy': 0.3}]
    """
    by_step = [{point["step"]: point for point in line} for line in lines]
    shared = sorted(set.intersection(*(set(line) for line in by_step))) if by_step else []
    return [
        {"step": step}
        | {key: round(fmean(line[step][key] for line in by_step), 9) for key in by_step[0][step] if key != "step"}
        for step in shared
    ]


def draw_curves(found: Sequence[Json], file: Path, *, cell: str) -> None:
    """Three panels, accuracy against each cost: a thin line a seed, a bold one for the mean of an arm.

    Args:
        found: of `curves`.
        file: PNG or SVG by its suffix.
        cell: what the accuracy is of.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(line["arm"] for line in found))
    style = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
    colours = {"text.color": _INK, "axes.edgecolor": _MUTED, "axes.labelcolor": _MUTED, "grid.color": _RULE}
    with rc_context({**style, **colours, "xtick.color": _MUTED, "ytick.color": _MUTED, "svg.hashsalt": cell}):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, (key, label) in zip(panels, _PANELS.items(), strict=True):
            _panel(axes, found, arms, key)
            axes.set_xlabel(label)
        panels[0].set_ylabel(f"accuracy (%), {cell}")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)


def _panel(axes: Any, found: Sequence[Json], arms: Sequence[str], key: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    from latentpad.experiments.plots import mark_of

    spent = [point[key] for line in found for point in line["points"] if point[key] > 0]
    log = bool(spent) and max(spent) / min(spent) >= _MANY_TIMES
    for index, arm in enumerate(arms):
        lines = [line["points"] for line in found if line["arm"] == arm]
        mark, colour = mark_of(index), _ARMS[index % len(_ARMS)]
        for points, bold in [*((points, False) for points in lines), (mean_points(lines), True)]:
            seen = [p for p in points if p[key] > 0 or not log]
            axes.plot(
                [p[key] for p in seen],
                [100 * p["accuracy"] for p in seen],
                color=colour,
                linestyle=mark.dashes,
                linewidth=2 if bold else 0.7,
                alpha=1 if bold else 0.45,
                marker=mark.marker,
                markersize=6 if bold else 2.5,
                label=arm if bold else None,
            )
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(-2, 102)
    axes.grid(axis="y", linewidth=0.7)
