"""The numbers as tables for a terminal."""

from __future__ import annotations

from io import StringIO
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence


def _render(table: Table, width: int = 150) -> str:
    stream = StringIO()
    Console(file=stream, width=width).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def run_table(evaluation: dict[str, Any]) -> str:
    """One policy, a line a cell and decoding."""
    table = Table(title=f"{evaluation['policy']}, step {evaluation['step']}")
    for name in (
        "cell",
        "decoding",
        "accuracy",
        "95% interval",
        "n",
        "scratchpad",
        "tokens",
        "truncated",
        "unparseable",
    ):
        table.add_column(name, justify="left" if name in ("cell", "decoding") else "right")
    for c in evaluation["cells"]:
        interval = f"{c['low']:.1%} - {c['high']:.1%}"
        shares = (
            f"{c['scratchpad_rate']:.1%}",
            f"{c['response_tokens']:.1f}",
            f"{c['truncated']:.1%}",
            f"{c['unparseable']:.1%}",
        )
        table.add_row(c["cell"], c["decoding"], f"{c['accuracy']:.1%}", interval, str(c["n"]), *shares)
    return _render(table)


def experiment_table(summary: dict[str, Any]) -> str:
    """Arm x cell, greedy accuracy (mean over seeds), beside what each arm cost; below it where there are many cells."""
    cells = list(dict.fromkeys(c["cell"] for arm in summary["arms"] for c in arm["cells"]))
    beyond = [cell for cell in cells if cell not in summary["train_cells"]]
    caption = (
        f"Greedy accuracy on held-out problems. {', '.join(beyond)}: beyond what is trained on." if beyond else None
    )
    seeds = summary.get("seeds") or summary["arms"][0]["seeds"]
    title = f"{summary['experiment']}, seeds {', '.join(map(str, seeds))}"
    accuracies, costs = [], []
    arms = [arm for arm in summary["arms"] if arm["cells"]]
    for arm in arms:
        greedy = [c for c in arm["cells"] if c["decoding"] == "greedy"]
        accuracies.append([fmean(c["accuracy"] for c in greedy if c["cell"] == cell) for cell in cells])
        trained = [c["scratchpad_rate"] for c in greedy if c["cell"] in summary["train_cells"]]
        costs.append([f"{fmean(trained):.0%}", *(f"{fmean(c[k] for c in arm['costs']):,.0f}" for k in _COSTS.values())])
    names = [arm["arm"] if arm.get("status", "done") == "done" else f"{arm['arm']} (not all seeds)" for arm in arms]
    many = len(cells) > _MOST_CELLS
    if not many:
        rows = [[f"{a:.1%}" for a in row] + cost for row, cost in zip(accuracies, costs, strict=True)]
        return _render(_arms_table(title, [*cells, "scratchpad", *_COSTS], names, rows, caption))
    shown = [[f"{100 * a:.1f}" for a in row] for row in accuracies]
    heads = [cell.rpartition("=")[2] for cell in cells]
    upper = _arms_table(f"{title}: accuracy in % by {cells[0].rpartition('=')[0]}", heads, names, shown, caption)
    return f"{_render(upper)}\n{_render(_arms_table('costs', ['scratchpad', *_COSTS], names, costs))}"


_MOST_CELLS = 8  # beside the costs in one table
_COSTS = {
    "rollouts or examples": "samples",
    "tokens generated": "tokens_generated",
    "trained on": "tokens_trained",
    "seconds": "seconds",
}


def _arms_table(
    title: str, heads: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None
) -> Table:
    """A line an arm."""
    table = Table(title=title, caption=caption)
    table.add_column("arm")
    for head in heads:
        table.add_column(head, justify="right")
    for name, row in zip(names, rows, strict=True):
        table.add_row(name, *row)
    return table
