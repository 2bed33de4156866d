"""One self-contained page that shows an experiment or a run: figures, tables, real responses, and how it was made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from latentpad.experiments import plots
from latentpad.experiments.page import (
    Arm,
    Column,
    Json,
    Page,
    cell_key,
    is_number,
    percent,
    read_experiment,
    read_single_run,
)
from latentpad.recipe.errors import RecipeError
from reward import CLOSE_TAG, OPEN_TAG, extract_scratchpad

_LONGEST_TEXT = 6000


def headline(page: Page) -> str:
    """What the page shows, in one sentence, from its numbers alone."""
    hero, where = page.hero, page.longest
    if hero is None or where is None:
        return f"No evaluation yet: {len(page.arms)} {'arm' if len(page.arms) == 1 else 'arms'}, none evaluated."
    before = page.arm(hero.start)

    def change(key: str) -> str:
        values = [page.value(a, key) for a in (before, hero)]
        return " \u2192 ".join(percent(v, "%") for v in values if v is not None)

    parts = [f"{hero.name}: {change('accuracy')} at {page.label(where)}"]
    if page.value(hero, "scratchpad_rate") is not None:
        parts.append(f"scratchpads in {change('scratchpad_rate')} of responses")
    if hero.answers_only:
        parts.append("trained on final answers alone")
    return ", ".join(parts) + (f" (means of {page.seeds} seeds)." if page.seeds > 1 else ".")


def split_response(response: str) -> tuple[str, str]:
    """A response as (scratchpad with its tags, the rest): the two together are the response, whatever is in it.

    >>> split_response("<scratch>2+5</scratch>7"), split_response("7"), split_response("<scratch>2+")
    (('<scratch>2+5</scratch>', '7'), ('', '7'), ('<scratch>2+', ''))
    """
    pad = extract_scratchpad(response)
    return pad, response[len(pad) :]


def visible(text: str) -> Markup:
    """Text safe to show: HTML escaped, control characters as pictures, scratchpad tags set off, length bounded."""
    shown = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda c: chr(0x2400 + ord(c[0])), text[:_LONGEST_TEXT])
    shown = re.sub(r"[\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", shown)
    html = str(escape(shown))
    for tag in (OPEN_TAG, CLOSE_TAG):
        html = html.replace(str(escape(tag)), f'<span class="tag">{escape(tag)}</span>')
    rest = len(text) - _LONGEST_TEXT
    return Markup(html + (f'<span class="tag"> \u2026 {rest} more characters</span>' if rest > 0 else ""))


@dataclass(frozen=True)
class Place:
    """Responses of one cell: how many there are, how many are right, and the first few of either in file order."""

    column: Column
    kind: str
    total: int
    right: int
    shown: tuple[Json, ...]


def pick_responses(page: Page, arm: Arm) -> list[Place]:
    """From the longest trained cell, a middle one and the first beyond; first seed that has any, main decoding."""
    records = next((run.responses for run in arm.runs if run.responses), ())
    shorter = [c for c in page.columns if c.trained is not False and c != page.longest]
    beyond = [c for c in page.columns if c.trained is False]
    picked = []
    for kind, column, most in (
        ("the hardest that is trained on", page.longest, 2),
        ("an easier one", shorter[len(shorter) // 2] if shorter else None, 1),
        ("beyond training", beyond[0] if beyond else None, 1),
    ):
        key = column.key if column else None
        there = [r for r in records if cell_key(r) == key and r.get("decoding") == page.decodings[0]]
        right = [r for r in there if r.get("outcome") == "CORRECT"]
        wrong = [r for r in there if r.get("outcome") != "CORRECT"]
        if column and there:
            picked.append(Place(column, kind, len(there), len(right), (*right[:most], *wrong[:most])))
    return picked


def figures(page: Page) -> Json:
    """Every drawing: `lead` wide and narrow, `panels` of the RL arms, `losses` of the others, `keys` of all."""
    axis_name, ticks = plots.axis_and_ticks([page.label(c) for c in page.columns])
    lead = {
        width: plots.accuracy_figure(
            [_cells(arm, page) for arm in page.arms],
            ticks,
            [c.trained is False for c in page.columns],
            x_label=axis_name,
            narrow=width == "narrow",
            salt=f"lead-{width}",
            bands=_bands(page),
        )
        for width in ("wide", "narrow")
        if page.columns
    }
    rl = [a for a in page.arms if a.samples]
    taught = [a for a in page.arms if not a.samples]
    return {
        "lead": lead,
        "keys": {a.name: plots.legend_key(a.mark, salt=f"key-{a.name}") for a in page.arms},
        "panels": plots.curve_figures((key, axis, [a.curve(key) for a in rl]) for key, axis in plots.PANELS.items()),
        "losses": plots.curve_figures([("loss", plots.LOSS, [a.curve("loss") for a in taught])]),
    }


def _bands(page: Page) -> list[plots.Band]:
    """What others published, where at least one of the cells is on the page."""
    at = {column.key[2]: x for x, column in enumerate(page.columns)}
    published = page.summary.get("published") or []
    found = [(band, tuple(at[cell] for cell in band["cells"] if cell in at)) for band in published]
    return [plots.Band(band["label"], x, band["low"], band["high"]) for band, x in found if x]


def _cells(arm: Arm, page: Page) -> plots.ArmLines:
    rows: dict[int, list[tuple[float, ...]]] = {}
    for x, column in enumerate(page.columns):
        entry = arm.entry(column, page.decodings[0])
        for seed, cell in entry.seeds if entry else ():
            y = cell.get("accuracy")
            if is_number(y):
                ends = [y if cell.get(end) is None else cell[end] for end in ("low", "high")]
                rows.setdefault(seed, []).append((x, y, *ends))
    return plots.ArmLines(arm.mark, tuple(plots.SeedLine(*zip(*row, strict=True)) for row in rows.values()))


def write_report(folder: Path) -> Path:
    """Write the page of an experiment folder (it has `summary.json`) or of a run folder (`metrics.jsonl`).

    The same input gives the same bytes. What is missing (a failed arm, no evaluation yet) is said on the page.

    Returns:
        The path of the page, `folder/report/index.html`.

    Raises:
        RecipeError: the folder is neither, or a file in it cannot be read.
    """
    if (folder / "summary.json").is_file():
        page = read_experiment(folder)
    elif (folder / "metrics.jsonl").is_file():
        page = read_single_run(folder)
    else:
        what = (
            "neither summary.json (an experiment) nor metrics.jsonl (a run) in it"
            if folder.is_dir()
            else "no such folder"
        )
        raise RecipeError(f"{folder}: {what}; give a folder that `latentpad ablate` or `latentpad train` wrote")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "visible": visible}
    html = environment.get_template("report.html.jinja").render(
        page=page,
        headline=headline(page),
        figures=figures(page),
        responses={arm.name: pick_responses(page, arm) for arm in page.arms},
        split_response=split_response,
    )
    path = folder / "report" / "index.html"
    path.parent.mkdir(exist_ok=True)
    path.write_text(html, encoding="utf-8", errors="backslashreplace")
    return path
