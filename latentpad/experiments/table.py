"""The numbers as tables for a terminal."""

from __future__ import annotations

from io import StringIO
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table


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
    """Arm x cell, greedy accuracy (mean over seeds), beside what each arm cost (mean over seeds)."""
    cells = list(dict.fromkeys(c["cell"] for arm in summary["arms"] for c in arm["cells"]))
    beyond = [cell for cell in cells if cell not in summary["train_cells"]]
    caption = (
        f"Greedy accuracy on held-out problems. {', '.join(beyond)}: beyond what is trained on." if beyond else None
    )
    table = Table(
        title=f"{summary['experiment']}, seeds {', '.join(map(str, summary['arms'][0]['seeds']))}", caption=caption
    )
    table.add_column("arm")
    for cell in cells:
        table.add_column(cell, justify="right")
    for name in ("scratchpad", "rollouts or examples", "tokens generated", "trained on", "seconds"):
        table.add_column(name, justify="right")
    for arm in summary["arms"]:
        greedy = [c for c in arm["cells"] if c["decoding"] == "greedy"]
        accuracy = [f"{fmean(c['accuracy'] for c in greedy if c['cell'] == cell):.1%}" for cell in cells]
        trained = [c["scratchpad_rate"] for c in greedy if c["cell"] in summary["train_cells"]]
        costs = [
            f"{fmean(c[k] for c in arm['costs']):,.0f}"
            for k in ("samples", "tokens_generated", "tokens_trained", "seconds")
        ]
        table.add_row(arm["arm"], *accuracy, f"{fmean(trained):.0%}", *costs)
    return _render(table)
