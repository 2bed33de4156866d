"""Problems, answers, and gold scratchpads for the supervised arms only. One file a task; no torch.

`Task` is all that an RL arm ever gets, and it has no gold scratchpad to show: that is `WorkedTask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from latentpad.recipe.components import build
from latentpad.recipe.errors import RecipeError
from latentpad.seeding import seed_of

if TYPE_CHECKING:
    from latentpad.recipe.schema import Component
    from latentpad.types import Problem

TASKS = {
    "addition": "latentpad.tasks.addition:Addition",
    "countdown": "latentpad.tasks.countdown:Countdown",
    "gsm8k": "latentpad.tasks.gsm8k:GSM8K",
    "jsonl": "latentpad.tasks.jsonl:JsonLines",
    "jsonl_worked": "latentpad.tasks.jsonl:WorkedJsonLines",
    "mbpp": "latentpad.tasks.mbpp:Mbpp",
    "mbpp_program": "latentpad.tasks.mbpp_program:MbppProgram",
    "mixture": "latentpad.tasks.mixture:MixtureOptions",
    "parity": "latentpad.tasks.running_sum:Parity",
    "reasoning_gym": "latentpad.tasks.reasoning_gym:ReasoningGym",
    "running_sum": "latentpad.tasks.running_sum:RunningSum",
    "polynomial": "latentpad.tasks.polynomial:Polynomial",
    "python_programs": "latentpad.tasks.python_programs:PythonPrograms",
}

SPLITS = ("train", "validation", "test")
# Shares of the canonical instances, in percent; the rest is for training.
TEST_SHARE, VALIDATION_SHARE = 20, 5


class ScratchpadError(ValueError):
    """A worked scratchpad is wrong: one line that says in which of its lines and why."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """A gold scratchpad with one value changed, for probes of whether an answer follows the scratchpad.

    Attributes:
        scratchpad: all lines, the change in one of them and the rest as they were.
        prefix: the lines up to and including the changed one, for a policy to go on from.
        answer: what follows from the changed value if all after it is worked rightly; never the gold answer.
    """

    scratchpad: str
    prefix: str
    answer: str


class Task(Protocol):
    """What a task brings. Everything is a pure function of its arguments."""

    @property
    def grader(self) -> str:
        """The name of the grader in `reward`."""
        ...

    @property
    def grader_options(self) -> dict[str, Any]:
        """Options of the grader, and `extraction` where the answer is not all that follows the scratchpad."""
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

    def canonical(self, problem: Problem) -> str:
        """What two spellings of one problem have in common; no canonical instance is in two splits."""
        ...

    def solution(self, problem: Problem) -> str:
        """The answer as a policy that is right writes it: mostly the gold answer, for programs a reference."""
        ...

    def parse(self, text: str) -> Problem:
        """A problem typed by a person. Raises `RecipeError`."""
        ...

    def longest(self, cell: str) -> Problem:
        """A problem whose gold response is at least as long as any other's in the cell."""
        ...


@runtime_checkable
class WorkedTask(Task, Protocol):
    """A task that can also show its work. Pretraining and the supervised arms get one; an RL arm never does."""

    def gold_scratchpad(self, problem: Problem) -> str:
        """The worked steps: for the pretraining corpus, the supervised arms, and (their length) preflight."""
        ...

    def read_scratchpad(self, problem: Problem, scratchpad: str) -> str:
        """The answer that a scratchpad leads to, read line by line by a solver that shares no code with the writer.

        Raises:
            ScratchpadError: a line does not follow from the problem and the lines before it.
        """
        ...

    def corrupt(self, problem: Problem, name: str) -> Corruption | None:
        """The gold scratchpad with one value changed, drawn by `name`; None where it has none to change."""
        ...


@runtime_checkable
class PrimitiveTask(Task, Protocol):
    """A task that can show its single steps on their own, such as copying: documents for the pretraining corpus."""

    def primitive(self, name: str) -> str:
        """A document that shows one step and no problem, drawn by `name`. It is no part of any split."""
        ...


@runtime_checkable
class ProgramTask(Task, Protocol):
    """A task whose gold answers are what programs print, so that executing them must give the same."""

    def program(self, problem: Problem) -> str:
        """A whole program that prints the gold answer."""
        ...


@runtime_checkable
class TaskOptions(Protocol):
    """What a recipe says of a task whose kind depends on it: with gold scratchpads, or without."""

    def whole_task(self) -> Task:
        """The task. Raises `RecipeError`."""
        ...


def executes_programs(task: Task) -> bool:
    """Whether the task's gold answers, or its grading, need the sandbox."""
    return task.grader == "program" or isinstance(task, ProgramTask)


def build_task(component: Component) -> Task:
    """The task that a recipe names. Raises `RecipeError`."""
    built = build("task", component, TASKS)
    return built.whole_task() if isinstance(built, TaskOptions) else cast("Task", built)


def worked(task: Task) -> WorkedTask:
    """The same task, with its gold scratchpads. Raises `RecipeError` if it has none."""
    if not isinstance(task, WorkedTask):
        raise RecipeError(
            f"task {type(task).__name__} has no gold scratchpads to teach: take another task, or do without them"
        )
    return task


def primitive_task(task: Task) -> PrimitiveTask:
    """The same task, with its primitives. Raises `RecipeError` if it has none."""
    if not isinstance(task, PrimitiveTask):
        raise RecipeError(
            f"pretrain.primitive_share: task {type(task).__name__} shows no single steps on their own: remove the key"
        )
    return task


def split_of(*instance: str | int) -> str:
    """The one split that a canonical instance belongs to, by the hash of its names: 75% train, 5% and 20% held out."""
    share = seed_of(*instance) % 100
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def check_split(split: str) -> None:
    """Raise `ValueError` unless this is the name of a split."""
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}; expected one of {', '.join(SPLITS)}")
