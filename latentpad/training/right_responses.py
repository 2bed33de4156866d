"""A round's right responses: problems drawn, responses sampled and graded, and of the right ones those to keep."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from latentpad.models.tokenizer import encode_strictly
from latentpad.recipe.errors import MachineError
from latentpad.rollout import Request
from latentpad.seeding import name_of, seed_of
from latentpad.training.collect import MAX_GRADER_FAILURES
from latentpad.training.episodes import grade_rollouts, make_prompt
from latentpad.training.processes.world import ALONE
from latentpad.training.rounds import hinted_question
from latentpad.types import Prompt
from reward import Outcome, writes_scratchpad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.method_schema import ExpertIterationSection
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine, Sampling
    from latentpad.tasks import Task
    from latentpad.training.processes.world import World
    from latentpad.types import Problem, Rollout


@dataclass(frozen=True, slots=True)
class RightResponse:
    """A response whose answer is right.

    Attributes:
        place: of its problem in the round.
        problem_id: two places may have drawn the same problem.
        token_ids: as they were sampled, the stop token included.
        hinted: whether the problem was asked with its answer shown.
        has_scratchpad: whether it writes one.
    """

    place: int
    problem_id: str
    token_ids: tuple[int, ...]
    hinted: bool
    has_scratchpad: bool


@dataclass
class Tally:
    """What some responses were: the right ones themselves, of the others only numbers.

    Attributes:
        right: in the order of sampling.
        outcomes: how many of each.
        tokens: sampled.
        failures: where a grader broke, and on what.
    """

    right: list[RightResponse] = field(default_factory=list)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    tokens: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def sampled(self) -> int:
        """How many responses."""
        return self.outcomes.total()

    def share(self, outcome: Outcome) -> float:
        """Of those on which there is a verdict."""
        judged = self.sampled - self.outcomes[Outcome.GRADER_FAILED]
        return self.outcomes[outcome] / judged if judged else 0.0

    def add(self, other: Tally) -> None:
        """Those of the responses that were sampled next."""
        self.right += other.right
        self.outcomes += other.outcomes
        self.tokens += other.tokens
        self.failures += other.failures

    def check_graders(self, number: int) -> None:
        """Refuse a round (from 0) in which too many verdicts broke.

        Raises:
            MachineError: more than `MAX_GRADER_FAILURES` of them.
        """
        failed, count = self.outcomes[Outcome.GRADER_FAILED], self.sampled
        if failed > MAX_GRADER_FAILURES * count:
            raise MachineError(
                f"round {number + 1}: the grader failed on {failed} of {count} rollouts ({failed / count:.1%}, allowed "
                f"{MAX_GRADER_FAILURES:.0%}), first at problem {self.failures[0]}"
            )


@dataclass(frozen=True, slots=True)
class Found:
    """What a round sampled.

    Attributes:
        kept: what is learned from, in the order of sampling, those that needed the hint last.
        metrics: means over the round.
        sampled: responses, those to hinted questions too.
        tokens: of them.
    """

    kept: list[RightResponse]
    metrics: dict[str, float]
    sampled: int
    tokens: int


def keep_distinct(right: Iterable[RightResponse], most: int | None) -> list[RightResponse]:
    """Of the right responses to a problem the first `most` (None: all), equal ones once.

    Two are equal if they are of the same tokens.
    """
    seen: set[tuple[str, tuple[int, ...]]] = set()
    count: Counter[str] = Counter()
    kept = []
    for response in right:
        key = (response.problem_id, response.token_ids)
        if key not in seen and (most is None or count[response.problem_id] < most):
            kept.append(response)
            count[response.problem_id] += 1
        seen.add(key)
    return kept


def problem_at(task: Task, recipe: Recipe, number: int, place: int) -> Problem:
    """The problem at a place of a round (both from 0): the recipe's cells in turn, drawn by seed, round and place."""
    turn = section_of(recipe).cells or task.cells
    cell = turn[place % len(turn)]
    return task.draw("train", cell, name_of(recipe.seed, "expert iteration", number, place))


def section_of(recipe: Recipe) -> ExpertIterationSection:
    """The section of a recipe of this method."""
    assert recipe.expert_iteration is not None
    return recipe.expert_iteration


@dataclass(frozen=True)
class RightResponses:
    """Samples a round and keeps what is right.

    Chunks are cut by the recipe alone and shared out among the processes, and every response has a seed of its own, so
    that the number of processes and restarts change nothing.
    """

    recipe: Recipe
    policy: Policy
    engine: RolloutEngine
    task: Task
    text_format: Format
    sampling: Sampling
    world: World = ALONE

    def find(self, number: int, pause: Callable[[str], None] = lambda _: None) -> Found:
        """Those of round `number` (from 0), by the weights of the engine's last sync.

        A problem without a right response is asked once more with the hint, if the recipe has one; what is right then
        is an answer to the question without it.

        Args:
            number: of the round.
            pause: called by all processes between chunks with what is done so far; it may raise.

        Raises:
            MachineError: the grader failed too often.
        """
        section = section_of(self.recipe)
        problems = [problem_at(self.task, self.recipe, number, i) for i in range(section.prompts_per_round)]
        tally = self._ask(number, list(enumerate(problems)), None, pause)
        solved = {response.problem_id for response in tally.right}
        asked = {problem.id for problem in problems}
        kept = keep_distinct(tally.right, section.keep_per_prompt)
        metrics = _metrics(tally) | {"solved": len(solved) / len(asked)}
        sampled, tokens = tally.sampled, tally.tokens
        if section.hint is not None:
            left = [(place, problem) for place, problem in enumerate(problems) if problem.id not in solved]
            again = self._ask(number, left, section.hint, pause)
            kept += keep_distinct(again.right, section.keep_per_prompt)
            metrics["hinted_solved"] = len({response.problem_id for response in again.right}) / len(asked)
            sampled, tokens = sampled + again.sampled, tokens + again.tokens
        metrics["kept"] = len(kept)
        metrics["scratchpad_rate"] = fmean(response.has_scratchpad for response in kept) if kept else 0.0
        return Found(kept, metrics, sampled, tokens)

    def requests(self, number: int, places: Sequence[tuple[int, Problem]], hint: str | None) -> list[Request]:
        """`samples_per_prompt` a problem, each with a seed hashed from the names of what it draws."""
        requests = []
        for place, problem in places:
            prompt = self._prompt(problem, hint)
            for sample in range(section_of(self.recipe).samples_per_prompt):
                names = (problem.task, problem.split, number, place, problem.id, sample)
                way = "expert iteration" if hint is None else "expert iteration with a hint"
                requests.append(Request(prompt, seed_of("rollout", way, self.recipe.seed, *names)))
        return requests

    def _prompt(self, problem: Problem, hint: str | None) -> Prompt:
        if hint is None:
            return make_prompt(self.policy, self.text_format, problem)
        text = self.text_format.prompt(hinted_question(hint, problem))
        return Prompt(problem, text, encode_strictly(self.policy.tokenizer, text))

    def _ask(
        self, number: int, places: Sequence[tuple[int, Problem]], hint: str | None, pause: Callable[[str], None]
    ) -> Tally:
        """Sample and grade, as many chunks at a time as there are processes."""
        requests, size = self.requests(number, places, hint), self.recipe.rollout.chunk_size
        tries = section_of(self.recipe).samples_per_prompt
        chunks = [range(start, min(start + size, len(requests))) for start in range(0, len(requests), size)]

        def respond(chunk: range) -> Tally:
            rollouts = self.engine.generate([requests[i] for i in chunk], self.sampling)
            return self._grade(rollouts, [places[i // tries][0] for i in chunk], hinted=hint is not None)

        tally, together = Tally(), self.world.size
        for first in range(0, len(chunks), together):
            pause(f"round {number + 1}: {tally.sampled} of {len(requests)} {'hinted ' if hint else ''}responses")
            for part in self.world.spread(chunks[first : first + together], respond):
                tally.add(part)
        tally.check_graders(number)
        return tally

    def _grade(self, rollouts: Sequence[Rollout], places: Sequence[int], *, hinted: bool) -> Tally:
        """The grader sees the answer and the gold answer, as everywhere."""
        tally = Tally()
        for place, episode in zip(places, grade_rollouts(self.policy, self.task, rollouts), strict=True):
            rollout, outcome = episode.rollout, episode.reward.outcome
            problem_id = rollout.prompt.problem.id
            tally.outcomes[outcome] += 1
            tally.tokens += len(rollout.token_ids)
            if outcome is Outcome.CORRECT:
                shown = writes_scratchpad(episode.response)
                tally.right.append(RightResponse(place, problem_id, rollout.token_ids, hinted, shown))
            elif outcome is Outcome.GRADER_FAILED:
                tally.failures.append(f"{problem_id}: {episode.reward.detail}")
        return tally


def _metrics(tally: Tally) -> dict[str, float]:
    """Over all responses to the questions as they are; `reward` is the share of right ones."""
    named = {"wrong": Outcome.WRONG, "truncated": Outcome.TRUNCATED, "unparseable": Outcome.UNPARSEABLE}
    return {
        "reward": tally.share(Outcome.CORRECT),
        **{name: tally.share(outcome) for name, outcome in named.items()},
        "grader_failed": tally.outcomes[Outcome.GRADER_FAILED] / tally.sampled,
        "response_tokens": tally.tokens / tally.sampled,
    }
