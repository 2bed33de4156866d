"""The procedural tasks of the reasoning-gym library, drawn by name and scored strictly. Needs `latentpad[gym]`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.util import find_spec
from string import printable
from typing import Any

from latentpad.recipe.errors import MachineError, RecipeError, nearest
from latentpad.seeding import name_of, seed_of
from latentpad.tasks import check_split, split_of
from latentpad.types import Problem
from reward.types import GoldAnswerError, Outcome, Reward
from reward.worker import CheckCrashed, CheckRaised, CheckTooLong, shared_workers

OUTSIDE = True  # the library runs in worker processes, so that threads help
CPU_SECONDS = 20.0
# Entries that show how a data set spells its answers, and how many draws in a row may bring nothing.
_SHOWN, _STALLED = 12, 300
_MOST_TRIES, _MOST_UNPAID = 3000, 100
_HERE = "latentpad.tasks.reasoning_gym"


def _same(text: str) -> str:
    return " ".join(text.split())


# --- In a worker process: the library is imported nowhere else. ---


def _entry(dataset: str, config: str, seed: int) -> tuple[Any, dict[str, Any]]:
    import reasoning_gym

    made = reasoning_gym.create_dataset(dataset, **json.loads(config), seed=seed, size=1)
    return made, made[0]


def names() -> list[str]:
    """All data sets of the library."""
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def make(dataset: str, config: str, seed: int) -> dict[str, Any] | None:
    """An entry; None if the library does not pay 1.0 for its own answer."""
    made, entry = _entry(dataset, config, seed)
    question, answer = entry["question"], entry["answer"]
    if not isinstance(answer, str) or not answer.strip() or made.score_answer(answer.strip(), entry) != 1.0:
        return None
    return {"question": question, "answer": answer.strip(), "seed": seed}


def first(dataset: str, config: str, split: str, name: str) -> dict[str, Any]:
    """The first of the entries of that name that is in the split, or `why` there is none."""
    unpaid = 0
    for attempt in range(_MOST_TRIES):
        made = make(dataset, config, seed_of("reasoning_gym", dataset, config, split, name, attempt) % 2**32)
        if made is not None and split_of("reasoning_gym", dataset, _same(made["question"])) == split:
            return made
        unpaid += made is None
        if unpaid == _MOST_UNPAID:
            return {"why": "the library does not pay 1.0 for its own answers; choose another data set"}
    return {"why": f"none of {_MOST_TRIES} entries is in split {split!r}; widen its options"}


@lru_cache(maxsize=64)
def spelling(dataset: str, config: str) -> tuple[frozenset[str], bool]:
    """The characters of the answers, and whether the library's check is strict.

    It is not if it pays 1.0 for text around the right answer, or for two answers, in these characters.
    """
    found = []
    for index in range(_SHOWN):
        made, entry = _entry(dataset, config, seed_of("spelling", index) % 2**32)
        if isinstance(entry["answer"], str):
            found.append((made, entry, entry["answer"].strip()))
    characters = frozenset("".join(answer for _, _, answer in found))
    for (made, entry, a), (_, _, b) in zip(found, found[1:] + found[:1], strict=True):
        decoys = (f"The answer is {a}", f"{a} or 17", f"17 or {a}", f"{a}\n{a}", f"{a} {a}", f"{a} {b}", f"{b} {a}")
        for decoy in decoys:
            if set(decoy) <= characters | set(a) and _pays(made, entry, decoy):
                return characters, False
    return characters, True


def _pays(made: Any, entry: dict[str, Any], answer: str) -> bool:
    try:
        return bool(made.score_answer(answer, entry) == 1.0)
    except Exception:  # noqa: BLE001 (the library's parsers raise what they like; nothing is paid)
        return False


def score(dataset: str, config: str, seed: int, answer: str) -> bool:
    """Whether an answer other than the library's own is right too. What the library's check raises is raised."""
    characters, strict = spelling(dataset, config)
    if not strict:
        return False
    made, entry = _entry(dataset, config, seed)
    if set(answer) - characters - set(entry["answer"]):
        return False
    return bool(made.score_answer(answer, entry) == 1.0)


# --- In this process. ---


def _call(function: str, *arguments: Any) -> Any:
    return shared_workers().call(f"{_HERE}:{function}", *arguments, cpu_seconds=CPU_SECONDS)


def _read_gold(gold: str) -> tuple[str, str, int, str]:
    try:
        value = json.loads(gold)
        return value["dataset"], value["config"], value["seed"], value["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise GoldAnswerError.of(gold, "is not what the task reasoning_gym writes") from error


def check_gold(gold: str) -> None:
    """Raise `GoldAnswerError` unless `gold` names an entry and its answer."""
    _read_gold(gold)


def grade_entry(answer: str, gold: str) -> Reward:
    """CORRECT for the gold answer up to white space, and for what the library pays exactly 1.0 for.

    The library's partial credit counts as WRONG. Where its check also pays in full for text around an answer, only the
    gold answer is right; nowhere may an answer hold characters that the data set's answers never do.

    Raises:
        GoldAnswerError: if `gold` does not name an entry.
    """
    dataset, config, seed, expected = _read_gold(gold)
    if _same(answer) == _same(expected):
        return Reward.of(Outcome.CORRECT)
    try:
        right = _call("score", dataset, config, seed, answer)
    except CheckRaised as error:
        return Reward.of(Outcome.UNPARSEABLE, f"the library's check raised {error}"[:200])
    except (CheckTooLong, CheckCrashed) as error:
        return Reward.of(Outcome.WRONG, str(error)[:200])
    return Reward.of(Outcome.CORRECT if right else Outcome.WRONG)


@dataclass(frozen=True)
class ReasoningGym:
    """Entries of one data set of the library, in cells `level=<name>`, or all in one cell, `all`.

    Each entry has a seed of its own, hashed from the names of what is drawn. It belongs to a split by the hash of its
    question. Entries whose own answer the library does not pay in full are drawn again; a data set that has too many
    of them is refused. The library runs in worker processes, with a limit on the time of each call.

    Attributes:
        dataset: its name in the library, such as `chain_sum`.
        config: its options, such as `{min_terms: 2}`.
        levels: further options for each level, easiest first.
    """

    dataset: str
    config: dict[str, Any] = field(default_factory=dict)
    levels: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse names and options that the library does not know."""
        if find_spec("reasoning_gym") is None:
            raise MachineError("task 'reasoning_gym' needs the library: pip install 'latentpad[gym]'")
        known = _call("names")
        if self.dataset not in known:
            raise RecipeError(
                f"task.dataset: unknown data set {self.dataset!r} of reasoning_gym; "
                f"{nearest(self.dataset, known)}({len(known)} are known, such as 'chain_sum')"
            )
        for cell in self.cells:
            for key in ("seed", "size"):
                if key in json.loads(self._config(cell)):
                    raise RecipeError(f"task.config: remove {key!r}; every entry gets its own")
            self.draw("train", cell, "check")

    @property
    def grader(self) -> str:
        """The one above."""
        return f"{_HERE}:grade_entry"

    @property
    def grader_options(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def cells(self) -> tuple[str, ...]:
        """The levels as they are given."""
        return tuple(f"level={name}" for name in self.levels) or ("all",)

    @cached_property
    def _seen(self) -> dict[str, list[tuple[str, str]]]:
        return {
            cell: [(p.question, self.solution(p)) for i in range(100) for p in [self.draw("train", cell, f"seen/{i}")]]
            for cell in self.cells
        }

    @property
    def alphabet(self) -> str:
        """Printable ASCII, and what a hundred entries of each cell hold besides."""
        return "".join(
            sorted({*printable, *(c for seen in self._seen.values() for text in seen for c in "".join(text))})
        )

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless it is one of the cells."""
        if cell not in self.cells:
            raise RecipeError(f"cell {cell!r}: {nearest(cell, self.cells)}(allowed: {', '.join(self.cells)})")

    def _config(self, cell: str) -> str:
        self.check_cell(cell)
        return json.dumps({**self.config, **self.levels.get(cell.partition("=")[2], {})}, sort_keys=True)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """An entry with a seed of its own, made again until it belongs to the split."""
        check_split(split)
        config = self._config(cell)
        try:
            made = _call("first", self.dataset, config, split, name)
        except (CheckRaised, CheckTooLong, CheckCrashed) as error:
            raise RecipeError(f"task.config: {self.dataset} cannot make {cell!r} of {config[:200]}: {error}") from error
        if "why" in made:
            raise RecipeError(f"task.dataset: {self.dataset}, cell {cell!r}: {made['why']}")
        gold = {"dataset": self.dataset, "config": config, "seed": made["seed"], "answer": made["answer"]}
        key = f"{self.dataset}-{seed_of(config, made['question']):016x}-{made['seed']:08x}"
        return Problem(f"reasoning_gym/{split}/{key}", "reasoning_gym", split, cell, made["question"], json.dumps(gold))

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """Entries with different questions, until 300 draws in a row bring no new one."""
        check_split(split)
        found: dict[str, Problem] = {}
        stalled = index = 0
        while len(found) < count and stalled < _STALLED:
            problem = self.draw(split, cell, name_of("distinct", index))
            stalled = 0 if found.setdefault(self.canonical(problem), problem) is problem else stalled + 1
            index += 1
        return list(found.values())

    def canonical(self, problem: Problem) -> str:
        """The question up to white space."""
        return _same(problem.question)

    def solution(self, problem: Problem) -> str:
        """The library's own answer."""
        return _read_gold(problem.answer)[3]

    def parse(self, text: str) -> Problem:
        """Refused: nobody knows the answer to what a person types."""
        shown = re.sub(r"\s+", " ", text)[:80]
        raise RecipeError(f"problem {shown!r}: reasoning_gym draws its problems and cannot answer a typed one")

    def longest(self, cell: str) -> Problem:
        """Half as long again as a hundred entries were, for no generator says how long it can get."""
        self.check_cell(cell)
        question, answer = (max((seen[i] for seen in self._seen[cell]), key=len) for i in (0, 1))
        drawn = self.draw("train", cell, "check")
        gold = {**json.loads(drawn.answer), "answer": _longer(answer)}
        return Problem("reasoning_gym/longest", "reasoning_gym", "longest", cell, _longer(question), json.dumps(gold))


def _longer(text: str) -> str:
    return text + text[: len(text) // 2 + 1]
