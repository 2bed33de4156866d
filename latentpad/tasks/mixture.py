"""Several tasks as one, for multi-task data: the cells of each, under its name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from latentpad.recipe.errors import RecipeError, unknown
from latentpad.recipe.schema import Component
from latentpad.tasks import Corruption, Task, WorkedTask, build_task, worked
from latentpad.types import Problem

# Problems of each cell that are shown to the other tasks, to see whether they take them for their own.
_SHOWN = 3


@dataclass(frozen=True)
class MixtureOptions:
    """What a recipe says: `{name: mixture, tasks: [{name: parity, lengths: [4]}, {name: jsonl, path: ...}]}`.

    The cells are `parity:length=4` and so on. All tasks must have the same grader with the same options, and questions
    that tell which task they are of. There are gold scratchpads where every one of the tasks has them.

    Attributes:
        tasks: each as it would stand under `task`, its name once.
    """

    tasks: list[dict[str, Any]]

    def whole_task(self) -> Task:
        """The tasks built and put together. Raises `RecipeError`."""
        parts: dict[str, Task] = {}
        for number, options in enumerate(self.tasks, start=1):
            name = options.get("name")
            if not isinstance(name, str):
                raise RecipeError(f"task.tasks: number {number} has no name; expected one, and the task's own keys")
            if name in parts:
                raise RecipeError(f"task.tasks: {name!r} is there twice; its cells would be: give each once")
            try:
                parts[name] = build_task(Component.model_validate(options))
            except RecipeError as error:
                raise RecipeError(f"task.tasks: number {number}: {error}") from error
        if len(parts) < 2:
            raise RecipeError(f"task.tasks: got {len(parts)}; expected two tasks or more")
        mixed = WorkedMixture(parts) if all(isinstance(part, WorkedTask) for part in parts.values()) else Mixture(parts)
        mixed.check()
        return mixed


@dataclass(frozen=True)
class Mixture:
    """The tasks by name. A problem is a part's own, but for the name of the part in its cell and its id."""

    parts: dict[str, Task]

    def check(self) -> None:
        """Raise `RecipeError` unless one grader serves all, and each takes only its own questions."""
        first, *others = self.parts
        ours = (self.parts[first].grader, self.parts[first].grader_options)
        for name in others:
            theirs = (self.parts[name].grader, self.parts[name].grader_options)
            if theirs != ours:
                raise RecipeError(
                    f"task.tasks: {first!r} is graded by {ours[0]!r} {ours[1]} and {name!r} by {theirs[0]!r} "
                    f"{theirs[1]}; expected the same for all"
                )
        for name, part in self.parts.items():
            for cell in part.cells:
                for problem in [part.draw("train", cell, f"mixture/{i}") for i in range(_SHOWN)]:
                    self._refuse_as_another(name, problem)

    def _refuse_as_another(self, name: str, problem: Problem) -> None:
        for other, part in self.parts.items():
            if other == name:
                continue
            try:
                taken = part.parse(problem.question)
            except RecipeError:
                continue
            if taken.answer != problem.answer:
                raise RecipeError(
                    f"task.tasks: nothing tells the question {problem.question[:60]!r} of {name!r} from one of "
                    f"{other!r}: {problem.answer[:20]!r} or {taken.answer[:20]!r}? leave one of them out"
                )

    @property
    def grader(self) -> str:
        """The one of all parts."""
        return next(iter(self.parts.values())).grader

    @property
    def grader_options(self) -> dict[str, Any]:
        """Those of all parts."""
        return next(iter(self.parts.values())).grader_options

    @property
    def cells(self) -> tuple[str, ...]:
        """`<task>:<cell>`, task by task."""
        return tuple(f"{name}:{cell}" for name, part in self.parts.items() for cell in part.cells)

    @property
    def alphabet(self) -> str:
        """Every character of any part."""
        return "".join(sorted({character for part in self.parts.values() for character in part.alphabet}))

    def _part(self, cell: str) -> tuple[str, Task, str]:
        """Name and task of the part, and the cell as it calls it. Raises `RecipeError`."""
        for name, part in self.parts.items():
            if cell.startswith(f"{name}:"):
                return name, part, cell.removeprefix(f"{name}:")
        raise RecipeError(unknown("cell", cell, self.cells))

    def _outer(self, name: str, problem: Problem) -> Problem:
        return replace(problem, id=f"{name}/{problem.id}", cell=f"{name}:{problem.cell}")

    def _inner(self, problem: Problem) -> tuple[str, Task, Problem]:
        name, part, cell = self._part(problem.cell)
        return name, part, replace(problem, id=problem.id.removeprefix(f"{name}/"), cell=cell)

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless a part has it."""
        _, part, inner = self._part(cell)
        part.check_cell(inner)

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """The part's own draw of that name."""
        label, part, inner = self._part(cell)
        return self._outer(label, part.draw(split, inner, name))

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """The part's own."""
        label, part, inner = self._part(cell)
        return [self._outer(label, problem) for problem in part.distinct(split, inner, count)]

    def canonical(self, problem: Problem) -> str:
        """The part's own, under its name."""
        name, part, inner = self._inner(problem)
        return f"{name}:{part.canonical(inner)}"

    def solution(self, problem: Problem) -> str:
        """The part's own."""
        _, part, inner = self._inner(problem)
        return part.solution(inner)

    def parse(self, text: str) -> Problem:
        """A problem as one of the tasks reads it; where several do, the task's name and `:` before it says which."""
        for name, part in self.parts.items():
            if text.startswith(f"{name}:"):
                return self._outer(name, part.parse(text.removeprefix(f"{name}:")))
        found = []
        for name, part in self.parts.items():
            try:
                found.append(self._outer(name, part.parse(text)))
            except RecipeError:
                continue
        if len(found) == 1:
            return found[0]
        what = "more than one of the tasks reads it" if found else "none of the tasks reads it"
        raise RecipeError(
            f"problem {text[:80]!r}: {what}; expected a question of {', '.join(self.parts)}, with the task's name and "
            "':' before it to say which"
        )

    def longest(self, cell: str) -> Problem:
        """The part's own."""
        name, part, inner = self._part(cell)
        return self._outer(name, part.longest(inner))


@dataclass(frozen=True)
class WorkedMixture(Mixture):
    """The same where every part has gold scratchpads."""

    def gold_scratchpad(self, problem: Problem) -> str:
        """The part's own."""
        _, part, inner = self._inner(problem)
        return worked(part).gold_scratchpad(inner)

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """As the part reads it. Raises `ScratchpadError`."""
        _, part, inner = self._inner(problem)
        return worked(part).read_scratchpad(inner, scratchpad)

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """The part's own."""
        _, part, inner = self._inner(problem)
        return worked(part).corrupt(inner, name)
