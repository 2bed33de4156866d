"""One self-contained page that shows an experiment or a run: figures, tables, real responses, and how it was made."""

# Over 300 lines: the page's data, the words made of it and the reading of folders serve this page alone.
from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from latentpad.experiments import plots
from latentpad.recipe.errors import RecipeError
from reward import CLOSE_TAG, OPEN_TAG, extract_scratchpad

Json = dict[str, Any]

_LONGEST_TEXT = 6000


@dataclass(frozen=True)
class Column:
    """A cell of the evaluation, as a table column. `trained` is None where the training cells are not known."""

    key: tuple[str, str, str]
    trained: bool | None


@dataclass(frozen=True)
class Entry:
    """One arm at one cell and decoding: (seed, cell object) of each seed."""

    seeds: tuple[tuple[int, Json], ...]

    @property
    def seed(self) -> str:
        """The one seed, or `mean`."""
        return str(self.seeds[0][0]) if len(self.seeds) == 1 else "mean"

    def values(self, key: str) -> list[float]:
        """Of each seed that has it."""
        return [cell[key] for _, cell in self.seeds if cell.get(key) is not None]

    def mean(self, key: str = "accuracy") -> float | None:
        """The mean over seeds: a seed is a run, and problems of several runs are never pooled."""
        return statistics.fmean(self.values(key)) if self.values(key) else None

    def spread(self, key: str = "accuracy") -> str:
        """The Wilson interval of one seed's accuracy, or the least and the greatest of seeds that differ."""
        values, cell = self.values(key), self.seeds[0][1]
        if len(self.seeds) > 1:
            return f"{percent(min(values))} to {percent(max(values))}" if len(set(values)) > 1 else ""
        known = key == "accuracy" and None not in (cell.get("low"), cell.get("high"))
        return f"[{percent(cell['low'])}, {percent(cell['high'])}]" if known else ""


@dataclass(frozen=True)
class Run:
    """What a run folder holds; whatever is missing is empty."""

    seed: int
    recipe: str = ""
    metrics: tuple[Json, ...] = ()
    evaluation: Json = field(default_factory=dict)
    responses: tuple[Json, ...] = ()


@dataclass(frozen=True)
class Arm:
    """One row of the tables."""

    name: str
    description: str
    method: str
    start: str | None
    status: str
    cells: tuple[Json, ...]
    costs: tuple[Json, ...]
    runs: tuple[Run, ...]
    mark: plots.Mark

    def setting(self, key: str) -> str | None:
        """The value of a key, wherever it stands in the resolved recipe of the first run that has one."""
        recipe = next((run.recipe for run in self.runs if run.recipe), "")
        found = re.search(rf"^\s*{key}:[ \t]*['\"]?([\w.-]+)", recipe, re.MULTILINE)
        return found[1] if found else None

    @property
    def answers_only(self) -> bool:
        """RL whose recipe says that the advantages come from each response's own answer."""
        return self.method == "rl" and self.setting("signal") == "answer"

    def entry(self, column: Column, decoding: str) -> Entry | None:
        """What this arm reached at a cell, or None."""
        found = [c for c in self.cells if cell_key(c) == column.key and c.get("decoding") == decoding]
        return Entry(tuple((c.get("seed", 0), c) for c in found)) if found else None

    def cost(self, key: str) -> float | None:
        """The mean cost of a seed."""
        values = [c[key] for c in self.costs if c.get(key) is not None]
        return statistics.fmean(values) if values else None

    def curve(self, key: str) -> plots.ArmLines:
        """A metric by step, of each seed that logged it."""
        points = [[(m["step"], m[key]) for m in run.metrics if _is_number(m.get(key))] for run in self.runs]
        lines = (plots.SeedLine(*zip(*seed, strict=True)) for seed in points if seed)
        return plots.ArmLines(self.mark, tuple(lines))


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    title: str
    single_run: bool
    summary: Json
    arms: tuple[Arm, ...]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Every cell that any arm was evaluated on: `digits=2` before `digits=10`, else as they come."""
        trained = self.summary.get("train_cells") or []
        keys = list(dict.fromkeys(cell_key(c) for arm in self.arms for c in arm.cells))
        if all(re.fullmatch(r".*=\d+", key[2]) for key in keys):
            keys.sort(key=lambda key: (*key[:2], key[2].rpartition("=")[0], int(key[2].rpartition("=")[2])))
        return tuple(Column(key, key[2] in trained if trained else None) for key in keys)

    @cached_property
    def decodings(self) -> tuple[str, ...]:
        """Greedy first: the first is what the figure and the headline speak of."""
        found = dict.fromkeys(str(c.get("decoding")) for arm in self.arms for c in arm.cells)
        return tuple(sorted(found, key=lambda d: d != "greedy")) or ("greedy",)

    @property
    def longest(self) -> Column | None:
        """The longest cell that was trained on; the last one where the training cells are not known."""
        return next((c for c in reversed(self.columns) if c.trained is not False), None)

    @cached_property
    def seeds(self) -> int:
        """The most seeds that any arm was evaluated with."""
        return max((len({c.get("seed") for c in arm.cells}) for arm in self.arms), default=0)

    def label(self, column: Column) -> str:
        """The cell's name, with task and split where there are several."""
        return column.key[2] if len({c.key[:2] for c in self.columns}) == 1 else "/".join(column.key)

    def arm(self, name: str | None) -> Arm | None:
        """By name."""
        return next((a for a in self.arms if a.name == name), None)

    def value(self, arm: Arm | None, key: str = "accuracy", column: Column | None = None) -> float | None:
        """One number in the main decoding, at the longest trained cell unless another is given."""
        where = column or self.longest
        entry = arm.entry(where, self.decodings[0]) if arm and where else None
        return entry.mean(key) if entry else None

    @cached_property
    def hero(self) -> Arm | None:
        """The arm of the headline: RL on final answers, free to write, before any other; then the most accurate."""
        evaluated = [a for a in self.arms if self.value(a) is not None]
        trained = [a for a in evaluated if a.method != "pretrain"] or evaluated
        free = {a.name: (a.answers_only, a.setting("scratchpad") != "empty", a.method == "rl") for a in trained}
        return max(trained, key=lambda a: (free[a.name], self.value(a)), default=None)


def cell_key(cell: Json) -> tuple[str, str, str]:
    """Task, split and cell of a cell object or of a response."""
    return (str(cell.get("task", "")), str(cell.get("split", "")), str(cell.get("cell", "")))


def percent(share: float | None, unit: str = "") -> str:
    """A share with one decimal; a dash for none; in a sentence (with a unit) all is 100%.

    >>> percent(0.4215), percent(1.0, "%")
    ('42.1', '100%')
    """
    if share is None:
        return "\u2013"
    return f"{100 * share:.{0 if unit and share == 1 else 1}f}{unit}"


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
        ("longest training length", page.longest, 2),
        ("a shorter one", shorter[len(shorter) // 2] if shorter else None, 1),
        ("beyond the training lengths", beyond[0] if beyond else None, 1),
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
        )
        for width in ("wide", "narrow")
        if page.columns
    }
    rl = [a for a in page.arms if a.method == "rl"]
    taught = [a for a in page.arms if a.method != "rl"]
    return {
        "lead": lead,
        "keys": {a.name: plots.legend_key(a.mark, salt=f"key-{a.name}") for a in page.arms},
        "panels": plots.curve_figures((key, axis, [a.curve(key) for a in rl]) for key, axis in plots.PANELS.items()),
        "losses": plots.curve_figures([("loss", plots.LOSS, [a.curve("loss") for a in taught])]),
    }


def _cells(arm: Arm, page: Page) -> plots.ArmLines:
    rows: dict[int, list[tuple[float, ...]]] = {}
    for x, column in enumerate(page.columns):
        entry = arm.entry(column, page.decodings[0])
        for seed, cell in entry.seeds if entry else ():
            y = cell.get("accuracy")
            if _is_number(y):
                ends = [y if cell.get(end) is None else cell[end] for end in ("low", "high")]
                rows.setdefault(seed, []).append((x, y, *ends))
    return plots.ArmLines(arm.mark, tuple(plots.SeedLine(*zip(*row, strict=True)) for row in rows.values()))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and isfinite(value)


def _json(path: Path) -> Json:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: not readable as JSON ({error}); let the command that wrote it write it again"
        ) from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def _json_lines(path: Path) -> tuple[Json, ...]:
    """Every object; a last line that a killed run left unfinished is left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            if number != len(lines):
                raise RecipeError(f"{path}:{number}: not JSON ({error}); delete the line, or run again") from error
    return tuple(objects)


def _read_run(folder: Path, seed: int) -> Run:
    evaluations = sorted((p for p in folder.glob("eval/*.json") if p.stem.isdecimal()), key=lambda p: int(p.stem))
    recipe = folder / "recipe.yaml"
    return Run(
        seed=seed,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        metrics=_json_lines(folder / "metrics.jsonl"),
        evaluation=_json(evaluations[-1]) if evaluations else {},
        responses=_json_lines(evaluations[-1].with_suffix(".jsonl")) if evaluations else (),
    )


def _read_experiment(folder: Path) -> Page:
    summary = _json(folder / "summary.json")
    arms = []
    for index, arm in enumerate(summary.get("arms", ())):
        name = str(arm.get("arm", f"arm {index}"))
        arms.append(
            Arm(
                name=name,
                description=arm.get("description") or "",
                method=arm.get("method") or "",
                start=arm.get("from"),
                status=arm.get("status", "done"),
                cells=tuple(arm.get("cells", ())),
                costs=tuple(arm.get("costs", ())),
                runs=tuple(_read_run(folder / name / f"seed-{seed}", seed) for seed in arm.get("seeds", ())),
                mark=plots.mark_of(index),
            )
        )
    return Page(str(summary.get("experiment", folder.name)), False, summary, tuple(arms))


def _read_single_run(folder: Path) -> Page:
    """A run as an experiment of one arm; which cells were trained on is known only from the experiment around it."""
    run = _read_run(folder, seed=0)
    title = str(run.evaluation.get("policy", folder.resolve().name))
    arm = Arm(title, "", "", None, "done", (), (), (run,), plots.mark_of(0))
    seed = int(arm.setting("seed") or 0)
    last = run.metrics[-1] if run.metrics else {}
    seconds = sum(m.get("timing", {}).get("seconds", 0) for m in run.metrics)
    arm = replace(
        arm,
        method=arm.setting("method") or "",
        cells=tuple({**cell, "seed": seed} for cell in run.evaluation.get("cells", ())),
        costs=({**last, "seed": seed, "seconds": seconds},),
        runs=(replace(run, seed=seed),),
    )
    around = folder.resolve().parent.parent / "summary.json"
    environment = folder / "environment.json"
    summary = {
        "machine": _json(environment) if environment.is_file() else {},
        "train_cells": _json(around).get("train_cells", []) if around.is_file() else [],
    }
    return Page(title, True, summary, (arm,))


def write_report(folder: Path) -> Path:
    """Write the page of an experiment folder (it has `summary.json`) or of a run folder (`metrics.jsonl`).

    The same input gives the same bytes. What is missing (a failed arm, no evaluation yet) is said on the page.

    Returns:
        The path of the page, `folder/report/index.html`.

    Raises:
        RecipeError: the folder is neither, or a file in it cannot be read.
    """
    if (folder / "summary.json").is_file():
        page = _read_experiment(folder)
    elif (folder / "metrics.jsonl").is_file():
        page = _read_single_run(folder)
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
