"""The numbers of an experiment as Markdown, every seed on its own: what a results file or an issue can quote."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Json = dict[str, Any]


def results_markdown(summary: Json) -> str:
    """Tables of a `summary.json`: accuracy for each decoding, scratchpads, costs, and paired comparisons.

    Each entry lists the seeds in order.
    """
    seeds = _seeds(summary)
    sizes = sorted({c["n"] for arm in summary["arms"] for c in arm["cells"]})
    machine, packages = summary["machine"], summary["machine"]["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "transformers", "trl", "peft") if packages[name]
    )
    parts = [
        f"# {summary['experiment']}: results",
        f"`{summary['command']}`, {summary['created'][:10]}, commit {machine['git_commit']}. {machine['cores']} cores "
        f"({machine['cpu']}), {machine['memory_gb']} GB, GPU: {machine['gpu'] or 'none'}; Python {machine['python']}, "
        f"{versions}; threads: {machine['threads']}.",
        f"Held-out problems: {', '.join(map(str, sizes))} a cell. Each entry lists the seeds "
        f"{', '.join(map(str, seeds))} one by one; the 95% Wilson interval of each is in `summary.json`.",
    ]
    parts += [f"**{arm['arm']}**: {arm['status']}" for arm in summary["arms"] if arm.get("status", "done") != "done"]
    for decoding in dict.fromkeys(c["decoding"] for arm in summary["arms"] for c in arm["cells"]):
        parts += [f"## Accuracy in %, {decoding}", _by_cell(summary, decoding, "accuracy", 1)]
    parts += ["## Scratchpad rate in %, greedy", _by_cell(summary, "greedy", "scratchpad_rate", 0)]
    parts += ["## Cost of each arm's own training (what it starts from comes on top)", _costs(summary)]
    if summary["comparisons"]:
        hardest = summary["train_cells"][-1]
        parts += [f"## Against what the arm starts from, same problems, greedy, {hardest}", _paired(summary, hardest)]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _each(values: Iterable[float | None], decimals: int) -> str:
    """One a seed; a dash for a run that is missing."""
    return " / ".join("\u2013" if value is None else f"{value:,.{decimals}f}" for value in values)


def _seeds(summary: Json) -> list[int]:
    """All that the experiment asked for; a run of one that failed is missing."""
    return list(summary.get("seeds") or summary["arms"][0]["seeds"])


def _by_cell(summary: Json, decoding: str, key: str, decimals: int) -> str:
    names = list(dict.fromkeys(c["cell"] for arm in summary["arms"] for c in arm["cells"]))
    trained = [name for name in names if name in summary["train_cells"]]
    rows, seeds = [], _seeds(summary)
    for arm in summary["arms"]:
        found = {(c["cell"], c["seed"]): 100 * c[key] for c in arm["cells"] if c["decoding"] == decoding}
        if not found:
            rows.append([arm["arm"], *(["not evaluated"] * (len(names) + 1))])
            continue
        means = [fmean(found[name, s] for name in trained) if s in arm["seeds"] else None for s in seeds]
        cells = [_each((found.get((name, seed)) for seed in seeds), decimals) for name in names]
        rows.append([arm["arm"], *cells, _each(means, decimals)])
    heads = [name if name in trained else f"{name} (beyond)" for name in names]
    return _table(["arm", *heads, "mean of trained cells"], rows)


def _costs(summary: Json) -> str:
    keys = ("samples", "tokens_generated", "tokens_trained", "seconds")
    rows = []
    for arm in summary["arms"]:
        spent = {c["seed"]: c for c in arm["costs"]}
        seeds = [spent.get(seed, {}) for seed in _seeds(summary)]
        rows.append([arm["arm"], *(_each((c.get(key) for c in seeds), 0) for key in keys)])
    return _table(["arm", "documents, examples or rollouts", "tokens generated", "tokens trained on", "seconds"], rows)


def _paired(summary: Json, cell: str) -> str:
    rows = []
    for arm in summary["arms"]:
        mine = [
            c
            for c in summary["comparisons"]
            if (c["arm"], c["cell"], c["decoding"]) == (arm["arm"], cell, "greedy") and c["baseline"] == arm["from"]
        ]
        if mine:
            rows.append([arm["arm"], "; ".join(map(_difference, mine))])
    return _table(["arm", "difference in points (95% interval), exact McNemar p, a seed each"], rows)


def _difference(c: Json) -> str:
    p = "p < 0.001" if c["p_value"] < 0.001 else f"p = {c['p_value']:.2g}"
    return f"{100 * c['difference']:+.1f} ({100 * c['low']:+.1f} to {100 * c['high']:+.1f}), {p}"
