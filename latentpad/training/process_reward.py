"""`rl.signal: process`: half the reward is for worked steps that a solver accepts. The one place that breaks the rule.

Everywhere else no reward, signal or loss of an RL arm knows what a scratchpad should say. This control does, on
purpose: it is an upper bound on what could be learned if worked steps were verified too (process supervision: Uesato et
al. 2022, arXiv 2211.14275; Lightman et al. 2023, 2305.20050). It is no answer-only method, and nothing imports this
file unless a recipe asks for it. It reads; no gold scratchpad is written here or shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from latentpad.formats import get_format
from latentpad.recipe.errors import RecipeError
from latentpad.tasks import WorkedTask
from latentpad.tasks.agreement import leads_to_gold
from reward import CLOSE_TAG, OPEN_TAG, extract_scratchpad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.algorithms import Algorithm
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.types import Episode, Group


def process_values(groups: Sequence[Group], task: Task, recipe: Recipe) -> list[list[float]]:
    """What each rollout is worth by group: 1/2 for a right answer and 1/2 for steps that lead to it.

    Raises:
        RecipeError: the task cannot read worked steps.
    """
    line_break, reads = get_format(recipe.format, recipe.model.path).line_break, reader(task)
    return [[0.5 * e.reward.value + 0.5 * works(reads, e, line_break) for e in group.episodes] for group in groups]


def works(task: WorkedTask, episode: Episode, line_break: str) -> bool:
    """Whether the response's own scratchpad, whatever its answer, is read without an error and leads to the gold one.

    `line_break` is the format's, which stands inside the tags. A scratchpad that is not closed is none.
    """
    pad = extract_scratchpad(episode.response)
    if not (pad.startswith(OPEN_TAG) and pad.endswith(CLOSE_TAG)):
        return False
    inside = pad.removeprefix(OPEN_TAG).removesuffix(CLOSE_TAG).removeprefix(line_break).removesuffix(line_break)
    return leads_to_gold(task, episode.rollout.prompt.problem, inside)


def check_process(recipe: Recipe, algorithm: Algorithm, task: Task) -> None:
    """Worked steps must be written and read, and no group left out for what its answers earn.

    Raises:
        RecipeError: one of these is not so.
    """
    if recipe.scratchpad == "empty":
        raise RecipeError("rl.signal: 'process' pays for worked steps, and scratchpad 'empty' allows none: remove one")
    reader(task)
    if algorithm.needs.sampling_rounds > 1:
        raise RecipeError(
            "rl.signal: 'process' pays for steps where answers earn alike, and algorithm.sampling_rounds leaves such "
            "groups out: set it to 1"
        )


def reader(task: Task) -> WorkedTask:
    """The task, which reads worked steps. Raises `RecipeError` if it does not."""
    if not isinstance(task, WorkedTask):
        raise RecipeError(f"rl.signal: 'process' needs a task that reads worked steps; {type(task).__name__} has none")
    return task
