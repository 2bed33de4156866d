"""Problems, answers, and gold scratchpads for the supervised arms only. One file a task; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from latentpad.recipe.components import build

if TYPE_CHECKING:
    from latentpad.recipe.schema import Component
    from latentpad.types import Problem

TASKS = {
    "addition": "latentpad.tasks.addition:Addition",
}

SPLITS = ("train", "validation", "test")


class Task(Protocol):
    """What a task brings. Everything is a pure function of its arguments."""

    @property
    def grader(self) -> str:
        """The name of the grader in `reward`."""
        ...

    @property
    def grader_options(self) -> dict[str, Any]:
        """Options of the grader."""
        ...

    @property
    def cells(self) -> tuple[str, ...]:
        """The slices that are trained on, easiest first."""
        ...

    @property
    def alphabet(self) -> str:
        """Every character that a question, a gold scratchpad or an answer can hold."""
        ...

    def check_cell(self, cell: str) -> None:
        """Raise `RecipeError` unless problems of this cell exist, trained on or not."""
        ...

    def draw(self, split: str, cell: str, name: str) -> Problem:
        """A problem, drawn with a generator seeded by the names."""
        ...

    def distinct(self, split: str, cell: str, count: int) -> list[Problem]:
        """`count` problems different as canonical instances, or all where the cell has fewer; always the same."""
        ...

    def parse(self, text: str) -> Problem:
        """A problem typed by a person. Raises `RecipeError`."""
        ...

    def longest(self, cell: str) -> Problem:
        """A problem whose gold scratchpad is at least as long as any other's in the cell."""
        ...

    def gold_scratchpad(self, problem: Problem) -> str:
        """The worked steps: for the pretraining corpus, the supervised arms, and (their length) preflight."""
        ...


def build_task(component: Component) -> Task:
    """The task that a recipe names. Raises `RecipeError`."""
    return cast("Task", build("task", component, TASKS))
