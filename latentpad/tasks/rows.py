"""Tasks made of rows of data: reading them, checking every gold answer, and dealing them out to splits and cells."""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpad.recipe.errors import MachineError, RecipeError, nearest, unknown
from latentpad.seeding import rng_of, seed_of
from latentpad.tasks import SPLITS, check_split, split_of
from latentpad.types import Problem
from reward import GoldAnswerError
from reward.extract import check_rule
from reward.grade import check_gold
from reward.types import BadOptions, MissingPackage

Paths = str | dict[str, str]
# How a policy that is right marks its answer, for each of the extraction rules.
MARKS = {"tags": "{}", "boxed": r"\boxed{{{}}}", "answer": "<answer>{}</answer>", "hash": "#### {}"}


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a data file: the split that its file is for (None: not said), where it stands, and its columns."""

    split: str | None
    where: str
    columns: Mapping[str, Any]

    def text(self, column: str) -> str:
        """The text of a column. Raises `RecipeError`."""
        value = self._get(column)
        if not isinstance(value, str):
            raise RecipeError(f"{self.where}: column {column!r} is {type(value).__name__}; expected text")
        return value

    def answer(self, column: str) -> str:
        """A gold answer: text, a number as it is written in JSON, or an object as JSON. Raises `RecipeError`."""
        value = self._get(column)
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float | dict):
            raise RecipeError(f"{self.where}: column {column!r} is {json.dumps(value)[:60]}; expected text or a number")
        return json.dumps(value)

    def _get(self, column: str) -> Any:
        if column not in self.columns:
            raise RecipeError(f"{self.where}: no {unknown('column', column, self.columns)}")
        return self.columns[column]


@dataclass(frozen=True, slots=True)
class Row:
    """A record as a task reads it.

    Attributes:
        where: file and line, for errors.
        split: the split that it is given for; None to go by its hash.
        cell: the slice that it is counted in.
        question, answer: as the task spells them.
        solution: what a policy that is right gives for its answer, without the mark of an extraction rule.
        scratchpad: the worked steps; empty where the task has none.
    """

    where: str
    split: str | None
    cell: str
    question: str
    answer: str
    solution: str
    scratchpad: str = ""


def read_records(path: Paths | None, hub: str | None, hub_config: str | None) -> Iterator[Record]:
    """All records of local JSONL files, or of a dataset on the hub.

    Args:
        path: of one file for all splits, or `{"train": ..., "test": ...}`; relative to the working directory.
        hub: name of a dataset on the hub, read with `datasets`; its splits are taken by their names.
        hub_config: its configuration, such as `main`.

    Raises:
        RecipeError: not exactly one source, or it cannot be read.
        MachineError: `datasets` is not installed.
    """
    if (path is None) == (hub is None):
        raise RecipeError("task: give exactly one of 'path' (local JSONL) and 'hub' (the name of a dataset)")
    if hub is not None:
        yield from _hub_records(hub, hub_config)
    elif isinstance(path, str):
        yield from _file_records(path, None)
    else:
        for split, file in (path or {}).items():
            if split not in SPLITS:
                raise RecipeError(f"task.path: {unknown('split', split, SPLITS)}")
            yield from _file_records(file, split)


def _file_records(path: str, split: str | None) -> Iterator[Record]:
    file = Path(path)
    if not file.is_file():
        raise RecipeError(f"task.path: no such file: {path} (relative to {Path.cwd()}){_near_files(file)}")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                columns = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise RecipeError(f"{where}: not JSON ({error}); expected one object a line") from error
            if not isinstance(columns, dict):
                raise RecipeError(
                    f"{where}: got {type(columns).__name__}; expected an object with a key for each column"
                )
            yield Record(split, where, columns)


def _near_files(file: Path) -> str:
    names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
    hint = nearest(file.name, names).strip()
    return f"; {hint}" if hint else ""


def _hub_records(hub: str, config: str | None) -> Iterator[Record]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MachineError("task.hub needs datasets: pip install 'latentpad[trl]', or give 'path'") from error
    try:
        found = load_dataset(hub, config)
    except (OSError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200]
        raise RecipeError(f"task.hub: cannot load {hub!r} ({line}); download it and give 'path'") from error
    if "train" not in found:
        raise RecipeError(f"task.hub: {hub!r} has no split 'train' (it has: {', '.join(found)}); give 'path'")
    for split in SPLITS:
        for number, columns in enumerate(found.get(split, ()), 1):
            yield Record(split, f"{hub} {split}:{number}", columns)


def canonical_text(text: str) -> str:
    r"""A question up to white space and composed accents. Case may matter in mathematics and in programs.

    >>> canonical_text(" What  is 2\n+ 2?")
    'What is 2 + 2?'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def _check_answers(rows: Iterable[Row], grader: str, options: Mapping[str, Any]) -> None:
    options = dict(options)
    try:
        check_rule(options.pop("extraction", "tags"))
        for row in rows:
            try:
                check_gold(grader, row.answer, **options)
            except GoldAnswerError as error:
                raise RecipeError(f"{row.where}: {error}") from error
    except BadOptions as error:
        raise RecipeError(f"task.grader: {error}") from error
    except MissingPackage as error:
        raise MachineError(f"task.grader: {error}") from error


def _natural(cell: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", cell)]


class Rows:
    """The rows of one task, each in one split and one cell, in a random order that the files' order does not change.

    A row given for `test` or `validation` stays there. What is not given is cut out of the rest by the hash of the
    question: 20% test, 5% validation. Of rows with the same question, up to white space, one is kept, before
    all the one that is held out, and the log says how many were not; different answers to one question are an error.

    Raises:
        RecipeError: an answer that cannot be graded, two answers to one question, or a cell that lacks a split.
        MachineError: the grader needs a package that is not installed.
    """

    def __init__(self, task: str, rows: Iterable[Row], grader: str, grader_options: Mapping[str, Any]) -> None:
        self._task = task
        found = list(rows)
        for row in found:
            if row.split not in (None, *SPLITS):
                raise RecipeError(f"{row.where}: {unknown('split', str(row.split), SPLITS)}")
        _check_answers(found, grader, grader_options)
        self._rows: dict[str, Row] = {}
        self._places: dict[tuple[str, str], list[str]] = defaultdict(list)
        for canonical, row in self._unique(found).items():
            self._rows[f"{seed_of(task, 'row', canonical):016x}"] = row
        given = {row.split for row in found}
        for key in sorted(self._rows):
            row = self._rows[key]
            split = split_of(task, canonical_text(row.question)) if row.split in (None, "train") else row.split
            self._places["train" if row.split == "train" and split in given else str(split), row.cell].append(key)
        self._keys = {canonical_text(row.question): key for key, row in self._rows.items()}
        self.cells = tuple(sorted({cell for split, cell in self._places if split == "train"}, key=_natural))
        self.alphabet = "".join(sorted({c for r in found for c in r.question + r.solution + r.scratchpad}))
        self._check_cells()

    def _unique(self, rows: Iterable[Row]) -> dict[str, Row]:
        kept: dict[str, Row] = {}
        dropped: Counter[str] = Counter()
        for row in sorted(rows, key=lambda row: ("test", "validation", "train", None).index(row.split)):
            canonical = canonical_text(row.question)
            first = kept.setdefault(canonical, row)
            if first.answer != row.answer:
                raise RecipeError(
                    f"{row.where}: answer {row.answer[:40]!r}, but {first.where} has {first.answer[:40]!r} for the "
                    "same question: remove one"
                )
            if first is not row:
                dropped[f"{row.split or 'the file'}, in {first.split or 'it'} already"] += 1
        for what, count in sorted(dropped.items()):
            logging.getLogger(__name__).warning("%s: left out %d rows of %s", self._task, count, what)
        return kept

    def _check_cells(self) -> None:
        if not self.cells:
            raise RecipeError("task: there are no rows to train on; give a file for 'train'")
        for cell in self.cells:
            counts = [len(self._places[split, cell]) for split in SPLITS]
            if not all(counts):
                shown = ", ".join(f"{n} {split}" for n, split in zip(counts, SPLITS, strict=True))
                raise RecipeError(
                    f"task: cell {cell!r} has rows for {shown}; every split needs one: join cells, or add rows"
                )

    def _problem(self, key: str, split: str) -> Problem:
        row = self._rows[key]
        return Problem(f"{self._task}/{split}/{key}", self._task, split, row.cell, row.question, row.answer)

    def _keys_of(self, split: str, cell: str) -> list[str]:
        check_split(split)
        self.check_cell(cell)
        return self._places.get((split, cell), [])

    def row(self, problem: Problem) -> Row:
        """The row that a problem was made of."""
        return self._rows[problem.id.rpartition("/")[2]]

    def rows(self, split: str) -> Iterator[Row]:
        """All rows of a split."""
        return (self._rows[key] for (s, _), keys in self._places.items() if s == split for key in keys)

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless there are rows of this cell."""
        known = {known for _, known in self._places}
        if cell not in known:
            raise RecipeError(unknown("cell", cell, known))

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """A row, each as likely as any other. Raises `RecipeError` where there is none."""
        keys = self._keys_of(split, cell)
        if not keys:
            raise RecipeError(f"cell {cell!r} has no rows in split {split!r}")
        return self._problem(rng_of(self._task, split, cell, name).choice(keys), split)

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """The first rows of the cell in its random order."""
        return [self._problem(key, split) for key in self._keys_of(split, cell)[:count]]

    def canonical(self, problem: Problem) -> str:
        """The question up to white space."""
        return canonical_text(problem.question)

    def parse(self, text: str) -> Problem:
        """A question of the data. Raises `RecipeError` for any other, whose answer nobody knows."""
        key = self._keys.get(canonical_text(text))
        if key is None:
            raise RecipeError(f"problem {text[:80]!r}: expected a question that is in the data, word for word")
        return self._problem(key, "typed")

    def longest(self, cell: str) -> Problem:
        """The longest response of the cell, asked for with its longest question, which may be another row's."""
        self.check_cell(cell)
        keys = [key for (_, known), places in self._places.items() if known == cell for key in places]
        rows = {key: self._rows[key] for key in keys}
        question = max((row.question for row in rows.values()), key=len)
        key = max(rows, key=lambda key: len(rows[key].scratchpad) + len(rows[key].solution))
        return Problem(f"{self._task}/longest/{key}", self._task, "longest", cell, question, rows[key].answer)
