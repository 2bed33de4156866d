"""What `latentpad compare` found, as tables for a terminal and as Markdown."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    Json = dict[str, Any]
    # Title, heads, rows; a row of None is a rule.
    Grid = tuple[str, list[str], list[list[str] | None]]

_WIDTH = 170


def terminal(found: Json) -> str:
    """Differences and notes as lines, then accuracies, costs, and pass@k of the first cell that is shown."""
    grids = [_accuracies(found), _costs(found), *_tries(found)[:1]]
    return "\n".join([*_preface(found), *(_drawn(grid) for grid in grids)])


def markdown(found: Json, figure: str | None = None) -> str:
    """The same for a file, pass@k of every cell, and the name of a figure beside it."""
    parts = [f"# {_title(found)}", *_preface(found), _legend(found)]
    parts += [_written(grid) for grid in (_accuracies(found), _costs(found), *_tries(found))]
    if figure is not None:
        parts.append(f"![accuracy against what was spent]({figure})")
    return "\n\n".join(parts) + "\n"


def _title(found: Json) -> str:
    others = ", ".join(arm["arm"] for arm in found["arms"][1:])
    return f"{others} against {found['baseline']}"


def _preface(found: Json) -> list[str]:
    return [*found["differences"], *found["left_out"], *found["notes"]]


def _legend(found: Json) -> str:
    family = found["cells"][0]["comparisons"][0]["family"]
    return (
        f"{found['decoding']} answers to the same problems, seeds {', '.join(map(str, found['seeds']))} one by one. "
        "Differences in points with 95% intervals over seeds and problems (two-way random effects, t; see "
        f"`latentpad/experiments/intervals.py`); p by Holm over the {family} comparisons shown; exact McNemar p of "
        f"each seed, not corrected. Success: seeds at {100 * found['success_threshold']:g}% or more, with the exact "
        "95% interval."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def p_text(p: float) -> str:
    """A p-value with two digits.

    >>> p_text(0.0421), p_text(1e-9)
    ('0.042', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def _points(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _accuracies(found: Json) -> Grid:
    heads = ["cell", "arm", "each seed", "mean", "IQM", "min-max", "success"]
    heads += ["difference (95%)", "p, Holm", "McNemar p"]
    rows: list[list[str] | None] = []
    for row in found["cells"]:
        compared = {c["arm"]: c for c in row["comparisons"]}
        for number, arm in enumerate(row["arms"]):
            cell = f"{row['cell']} ({row['problems']})" if number == 0 else ""
            success = arm["success"]
            line = [cell, arm["arm"], " / ".join(map(_percent, arm["each_seed"])), _percent(arm["mean"])]
            line += [_percent(arm["iqm"]), f"{_percent(arm['min'])}-{_percent(arm['max'])}"]
            line += [f"{success['successes']}/{success['seeds']} ({success['low']:.0%}-{success['high']:.0%})"]
            if c := compared.get(arm["arm"]):
                line += [_points(c["difference"], c["low"], c["high"]), p_text(c["p_holm"])]
                line += [" / ".join(p_text(m["p_value"]) for m in c["mcnemar"])]
            rows.append([*line, *([""] * (len(heads) - len(line)))])
        rows.append(None)
    return f"Accuracy in %, {found['decoding']}", heads, rows[:-1]


def _costs(found: Json) -> Grid:
    """Each arm's accuracy beside what it cost, alone and with all that it started from; means over seeds."""
    heads = ["arm", "accuracy", *(f"{what}, {whose}" for what in _COSTS.values() for whose in ("own", "in all"))]
    rows: list[list[str] | None] = []
    for arm, level in zip(found["arms"], found["cells"][0]["arms"], strict=True):
        line = [arm["arm"], _percent(level["mean"])]
        for key in _COSTS:
            for costs in (arm["own_costs"], arm["total_costs"]):
                line.append("not known" if costs is None else f"{sum(costs[key]) / len(costs[key]):,.0f}")
        rows.append(line)
    return f"Costs, a seed; accuracy in %: {found['cells'][0]['cell']}", heads, rows


_COSTS = {
    "samples": "samples",
    "tokens_generated": "generated",
    "tokens_trained": "trained on",
    "seconds": "seconds",
}


def _tries(found: Json) -> list[Grid]:
    """pass@k and maj@k by k, a table a cell."""
    if found["tries"] is None:
        return []
    grids: list[Grid] = []
    for row in found["tries"]["cells"]:
        heads = ["arm", "k", "pass@k (95%)", "maj@k", f"pass@k against {found['tries']['baseline']} (95%)"]
        rows: list[list[str] | None] = []
        for arm in row["arms"]:
            for point in arm["points"]:
                line = [arm["arm"] if point is arm["points"][0] else "", str(point["k"])]
                line.append(f"{_percent(point['pass'])} ({_percent(point['low'])} to {_percent(point['high'])})")
                gap = [point[key] for key in ("difference", "difference_low", "difference_high") if key in point]
                rows.append([*line, _percent(point["maj"]), _points(*gap) if gap else ""])
            if "crosses_at" in arm:
                rows.append(["", "", "", "", _crossing(arm["crosses_at"], found["tries"]["baseline"])])
            rows.append(None)
        rows.pop()
        grids.append((f"pass@k and maj@k in %, {row['cell']} ({row['problems']} problems)", heads, rows))
    return grids


def _crossing(k: int | None, baseline: str) -> str:
    return f"{baseline} is below it at the largest k" if k is None else f"{baseline} is at or above it from k={k}"


def _drawn(grid: Grid) -> str:
    title, heads, rows = grid
    table = Table(title=title)
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < 2 else "right", no_wrap=number > 0)
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    stream = StringIO()
    Console(file=stream, width=_WIDTH).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _written(grid: Grid) -> str:
    title, heads, rows = grid

    def line(row: Sequence[str]) -> str:
        return f"| {' | '.join(row)} |"

    lines = [line(heads), "|---" * len(heads) + "|", *(line(row) for row in rows if row is not None)]
    return f"## {title}\n\n" + "\n".join(lines)
