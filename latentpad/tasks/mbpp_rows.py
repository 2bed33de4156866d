"""The rows of MBPP (Austin et al. 2021, arXiv 2108.07732): what both tasks on them read."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentpad.recipe.errors import RecipeError
from latentpad.tasks.rows import read_records
from reward.asserts import BadAssertion, parse_quietly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.tasks.rows import Record

HUB, HUB_CONFIG = "google-research-datasets/mbpp", "full"
# As published; tasks 1 to 10 are the examples of few-shot prompts, and in no split.
_SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975), "prompt": range(1, 11)}
_COLUMNS = ("text", "code", "task_id", "test_setup_code", "test_list", "challenge_test_list")


@dataclass(frozen=True, slots=True)
class MbppRow:
    """One row: its split (`prompt` for the few-shot examples), where it stands, and its columns.

    Line ends are `\\n`, and no line ends in white space.
    """

    where: str
    split: str
    task_id: int
    text: str
    code: str
    setup: str
    tests: tuple[str, ...]
    challenge_tests: tuple[str, ...]

    @property
    def whole(self) -> str:
        """The program, and after it what its tests need: objects of its own classes, in the rows that have it."""
        return f"{self.code}\n\n{self.setup}" if self.setup else self.code


def read_mbpp(path: str | None, hub: str | None) -> Iterator[MbppRow]:
    """All rows of a local JSONL file, or of the hub if neither is given.

    Raises:
        RecipeError: the file cannot be read, or a row is not as published.
        MachineError: `datasets` is not installed, for the hub.
    """
    seen: dict[int, str] = {}
    for record in read_records(path, HUB if path is None and hub is None else hub, HUB_CONFIG):
        row = _row(record)
        if row.task_id in seen:
            raise RecipeError(f"{row.where}: task_id {row.task_id} stands in {seen[row.task_id]} already")
        seen[row.task_id] = row.where
        yield row


def _row(record: Record) -> MbppRow:
    columns = record.columns
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise RecipeError(f"{record.where}: no column {missing[0]!r}; expected MBPP's columns ({', '.join(_COLUMNS)})")
    number = columns["task_id"]
    split = next((s for s, numbers in _SPLITS.items() if type(number) is int and number in numbers), None)
    if split is None:
        raise RecipeError(f"{record.where}: task_id is {json.dumps(number)[:20]}; expected a number from 1 to 974")
    lists = [columns[name] for name in ("test_list", "challenge_test_list")]
    if not all(isinstance(found, list) and all(isinstance(t, str) for t in found) for found in lists) or not lists[0]:
        raise RecipeError(
            f"{record.where}: test_list and challenge_test_list are to be lists of text, the first not empty"
        )
    return MbppRow(
        where=record.where,
        split=split,
        task_id=number,
        text=_tidy(record.text("text")),
        code=_tidy(record.text("code")),
        setup=_tidy(record.text("test_setup_code")),
        tests=tuple(map(_tidy, lists[0])),
        challenge_tests=tuple(map(_tidy, lists[1])),
    )


def _tidy(text: str) -> str:
    return re.sub(r"[ \t\r]+(?=\n|\Z)", "", text.replace("\r\n", "\n")).strip("\n")


def call_and_value(test: str) -> tuple[str, str] | None:
    """The two sides of `assert CALL == VALUE`, as Python spells them; None for any other test."""
    try:
        body = parse_quietly(test.strip()).body
    except BadAssertion:
        return None
    match body:
        case [ast.Assert(test=ast.Compare(left=ast.Call() as call, ops=[ast.Eq()], comparators=[value]))]:
            return ast.unparse(call), ast.unparse(value)
        case _:
            return None
