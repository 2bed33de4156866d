"""A step's groups: problems drawn, responses sampled, answers graded; sampled anew where an algorithm wants signal."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from latentpad.recipe.errors import MachineError
from latentpad.rollout import HoldsWeights, Request
from latentpad.seeding import name_of, rng_of, seed_of
from latentpad.training.episodes import grade_rollouts, into_groups, make_prompt
from latentpad.training.led import LedEngine
from latentpad.training.processes.world import ALONE
from reward import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine, Sampling
    from latentpad.rollout.weights import Weights
    from latentpad.tasks import Task
    from latentpad.training.ladder import Ladder
    from latentpad.training.led import LedUnderway
    from latentpad.training.processes.world import World
    from latentpad.types import Episode, Group, Problem, Rollout

T = TypeVar("T")

# The share of a step's rollouts whose grading may break before the step is refused.
MAX_GRADER_FAILURES = 0.01


def step_cells(
    task: Task, recipe: Recipe, step: int, *, ladder: Ladder | None = None, sampling_round: int = 0
) -> list[str]:
    """The cells of a step's problems: the recipe's in turn, or with a ladder its own."""
    count = recipe.rl_section.prompts_per_step
    if ladder is None:
        turn = recipe.rl_section.cells or task.cells
        return [turn[i % len(turn)] for i in range(count)]
    return ladder.cells(count, recipe.seed, step, sampling_round)


def step_problems(
    task: Task, recipe: Recipe, step: int, *, ladder: Ladder | None = None, sampling_round: int = 0
) -> list[Problem]:
    """The problems of a step, drawn by seed, step and place; the same for every arm.

    Each further sampling round goes on with the places after the last.
    """
    cells = step_cells(task, recipe, step, ladder=ladder, sampling_round=sampling_round)
    return problems_of(task, recipe, step, cells, sampling_round=sampling_round)


def problems_of(
    task: Task, recipe: Recipe, step: int, cells: Sequence[str], *, sampling_round: int = 0
) -> list[Problem]:
    """One problem a cell, drawn by seed, step and place; with `rl.problems` from so many that come again and again."""
    count, kinds = len(cells), recipe.rl_section.problems
    places = range(sampling_round * count, (sampling_round + 1) * count)
    names = [name_of(recipe.seed, "rl", step, place) for place in places]
    if kinds is not None:
        numbers = [rng_of("problem", recipe.seed, step, place).randrange(kinds) for place in places]
        names = [name_of(recipe.seed, "rl", "problem", number) for number in numbers]
    return [task.draw("train", cell, name) for cell, name in zip(cells, names, strict=True)]


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
    are cut by the recipe alone, so that the number of processes changes nothing. Where a pool samples, they share the
    grading.

    Attributes:
        timing: what the pool has told of the step so far.
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
    timing: dict[str, float] = field(default_factory=dict)

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

    def requests(self, step: int, cells: Sequence[str], number: int = 0) -> list[Request]:
        """What is asked in sampling round `number` of a step, for these cells."""
        problems = problems_of(self.task, self.recipe, step, cells, sampling_round=number)
        return step_requests(self.policy, self.text_format, problems, self.recipe, step, first=number * len(cells))

    def ask(self, requests: Sequence[Request], weights: Weights | None = None) -> LedUnderway | None:
        """Begin to sample, where somebody else does it: None where this process will, when it comes to it."""
        if isinstance(self.engine, LedEngine):
            return self.engine.submit(requests, self.sampling, weights)
        return None

    def episodes(
        self, requests: Sequence[Request], asked: LedUnderway | None = None, weights: Weights | None = None
    ) -> list[Episode]:
        """What was sampled for the requests, graded; the same on every process.

        Args:
            requests: what was asked.
            asked: what `ask` gave.
            weights: to sample from; None for those of the last sync.

        Raises:
            PoolLost: the workers are gone.
        """
        chunks = self._chunks(requests)
        if asked is not None:
            rollouts = asked.wait()
            if self._graded_on_the_cluster:
                assert isinstance(self.engine, LedEngine)
                return self.world.from_leader([] if self.engine.grade is None else self.engine.grade(rollouts))
            parts = self.world.spread(self._chunks(rollouts), self._grade)
        elif weights is not None and isinstance(self.engine, HoldsWeights):
            with self.engine.holding(weights):
                parts = self.world.spread(chunks, self._respond)
        else:
            parts = self.world.spread(chunks, self._respond)
        return [episode for part in parts for episode in part]

    @property
    def _graded_on_the_cluster(self) -> bool:
        section = self.recipe.rollout.ray
        return section is not None and section.rewards == "tasks"

    def _round(self, step: int, number: int) -> tuple[list[Group], float]:
        cells = step_cells(self.task, self.recipe, step, ladder=self.ladder, sampling_round=number)
        requests = self.requests(step, cells, number)
        asked = self.ask(requests)
        episodes = self.episodes(requests, asked)
        if asked is not None:
            add_up(self.timing, asked.timing())
        return graded_groups(into_groups(episodes, self.recipe.rl_section.group_size), step)

    def _chunks(self, items: Sequence[T]) -> list[Sequence[T]]:
        """As the recipe cuts them; one process alone lets the engine do it."""
        size = self.recipe.rollout.chunk_size if self.world.size > 1 else len(items)
        return [items[i : i + size] for i in range(0, len(items), size)]

    def _respond(self, requests: Sequence[Request]) -> list[Episode]:
        return self._grade(self.engine.generate(requests, self.sampling))

    def _grade(self, rollouts: Sequence[Rollout]) -> list[Episode]:
        return grade_rollouts(self.policy, self.task, rollouts)


def add_up(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add numbers name by name."""
    for name, value in more.items():
        total[name] = total.get(name, 0.0) + value


def outcome_rates(groups: Sequence[Group]) -> dict[str, float]:
    """The share of rollouts by outcome, of those that do not end well."""
    outcomes = [episode.reward.outcome for group in groups for episode in group.episodes]
    named = {"wrong": Outcome.WRONG, "truncated": Outcome.TRUNCATED, "unparseable": Outcome.UNPARSEABLE}
    return {name: fmean(outcome is kind for outcome in outcomes) for name, kind in named.items()}
