"""A step's groups: problems drawn, responses sampled, answers graded; sampled anew where an algorithm wants signal."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from latentpad.recipe.errors import MachineError
from latentpad.rollout import Request
from latentpad.seeding import name_of, seed_of
from latentpad.training.episodes import grade_rollouts, into_groups, make_prompt
from latentpad.training.processes.world import ALONE
from reward import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine, Sampling
    from latentpad.tasks import Task
    from latentpad.training.ladder import Ladder
    from latentpad.training.processes.world import World
    from latentpad.types import Episode, Group, Problem

# The share of a step's rollouts whose grading may break before the step is refused.
MAX_GRADER_FAILURES = 0.01


def step_problems(
    task: Task, recipe: Recipe, step: int, *, ladder: Ladder | None = None, sampling_round: int = 0
) -> list[Problem]:
    """The problems of a step: the recipe's cells in turn, drawn by seed, step and place; the same for every arm.

    With a ladder the cells are its own. Each further sampling round goes on with the places after the last.
    """
    count = recipe.rl_section.prompts_per_step
    if ladder is None:
        turn = recipe.rl_section.cells or task.cells
        cells = [turn[i % len(turn)] for i in range(count)]
    else:
        cells = ladder.cells(count, recipe.seed, step, sampling_round)
    places = range(sampling_round * count, (sampling_round + 1) * count)
    return [
        task.draw("train", cell, name_of(recipe.seed, "rl", step, place))
        for cell, place in zip(cells, places, strict=True)
    ]


def step_requests(
    policy: Policy, text_format: Format, problems: Sequence[Problem], recipe: Recipe, step: int, *, first: int = 0
) -> list[Request]:
    """`group_size` requests a problem, each with a seed hashed from the names of what it draws.

    `first` is the place of the first problem in the step.
    """
    requests = []
    for place, problem in enumerate(problems, start=first):
        prompt = make_prompt(policy, text_format, problem)
        for sample in range(recipe.rl_section.group_size):
            seed = seed_of("rollout", recipe.seed, problem.task, problem.split, step, place, problem.id, sample)
            requests.append(Request(prompt, seed))
    return requests


def graded_groups(groups: Sequence[Group], step: int) -> tuple[list[Group], float]:
    """The groups whose every reward is a verdict, and the share of rewards that are none.

    Where a grader broke, the 0 in its place must not be learned from.

    Raises:
        MachineError: more than `MAX_GRADER_FAILURES` of the step's rewards are none, or no group is left.
    """
    episodes = [episode for group in groups for episode in group.episodes]
    failed = [episode for episode in episodes if episode.reward.outcome is Outcome.GRADER_FAILED]
    kept = [g for g in groups if all(e.reward.outcome is not Outcome.GRADER_FAILED for e in g.episodes)]
    rate = len(failed) / len(episodes)
    if rate > MAX_GRADER_FAILURES or not kept:
        raise MachineError(
            f"step {step + 1}: the grader failed on {len(failed)} of {len(episodes)} rollouts ({rate:.1%}, allowed "
            f"{MAX_GRADER_FAILURES:.0%}), first at problem {failed[0].rollout.prompt.problem.id}: "
            f"{failed[0].reward.detail}"
        )
    return kept, rate


def has_signal(group: Group) -> bool:
    """Whether its rewards differ."""
    return len({episode.reward.value for episode in group.episodes}) > 1


@dataclass(frozen=True, slots=True)
class Collected:
    """What a step sampled.

    Attributes:
        groups: all graded groups: what the policy does.
        kept: those to learn from; all of them, or with several sampling rounds those with a signal, at most
            `prompts_per_step`.
        grader_failed: the largest share of verdicts that broke in a round.
        rounds: how often was sampled.
    """

    groups: list[Group]
    kept: list[Group]
    grader_failed: float
    rounds: int

    def metrics(self) -> dict[str, float]:
        """`kept_groups` is the share of sampled groups that is learned from."""
        return {
            "grader_failed": self.grader_failed,
            "sampling_rounds": self.rounds,
            "kept_groups": len(self.kept) / len(self.groups),
        }


@dataclass(frozen=True)
class Collector:
    """Samples and grades the groups of a step.

    Several processes share a step's chunks out: each samples and grades its own, and all are given all of them. Chunks
    are cut by the recipe alone, so that the number of processes changes nothing.
    """

    recipe: Recipe
    policy: Policy
    engine: RolloutEngine
    task: Task
    text_format: Format
    sampling: Sampling
    rounds: int = 1
    ladder: Ladder | None = None
    world: World = ALONE

    def collect(self, step: int) -> Collected:
        """The groups of step number `step` (from 0).

        With several rounds (dynamic sampling, Yu et al. 2025) groups of equal rewards are left out and new problems are
        sampled in their place, until `prompts_per_step` groups have a signal or the rounds are used up.

        Raises:
            MachineError: the grader failed too often.
        """
        groups: list[Group] = []
        rates = []
        for number in range(self.rounds):
            found, rate = self._round(step, number)
            groups += found
            rates.append(rate)
            kept = groups if self.rounds == 1 else [group for group in groups if has_signal(group)]
            if len(kept) >= self.recipe.rl_section.prompts_per_step:
                break
        return Collected(groups, kept[: self.recipe.rl_section.prompts_per_step], max(rates), len(rates))

    def _round(self, step: int, number: int) -> tuple[list[Group], float]:
        section = self.recipe.rl_section
        problems = step_problems(self.task, self.recipe, step, ladder=self.ladder, sampling_round=number)
        first = number * section.prompts_per_step
        requests = step_requests(self.policy, self.text_format, problems, self.recipe, step, first=first)
        size = self.recipe.rollout.chunk_size if self.world.size > 1 else len(requests)
        chunks = [requests[i : i + size] for i in range(0, len(requests), size)]
        episodes = [episode for part in self.world.spread(chunks, self._respond) for episode in part]
        return graded_groups(into_groups(episodes, section.group_size), step)

    def _respond(self, requests: Sequence[Request]) -> list[Episode]:
        rollouts = self.engine.generate(requests, self.sampling)
        return grade_rollouts(self.policy, self.task, rollouts)


def outcome_rates(groups: Sequence[Group]) -> dict[str, float]:
    """The share of rollouts by outcome, of those that do not end well."""
    outcomes = [episode.reward.outcome for group in groups for episode in group.episodes]
    named = {"wrong": Outcome.WRONG, "truncated": Outcome.TRUNCATED, "unparseable": Outcome.UNPARSEABLE}
    return {name: fmean(outcome is kind for outcome in outcomes) for name, kind in named.items()}
