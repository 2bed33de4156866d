"""`method: expert_iteration`: sample, keep what is right, fine-tune on it, and again.

With one round it is rejection fine-tuning (RFT, Yuan et al. 2023, arXiv 2308.01825), with several that each begin at
the base STaR (Zelikman et al. 2022, 2203.14465) or ReST-EM (Singh et al. 2023, 2312.06585). Its data are problems; a
gold answer is seen by the grader and, where the recipe has a `hint`, shown in the question; a gold scratchpad nowhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from latentpad.algorithms import token_weights
from latentpad.algorithms.likelihood import Likelihood
from latentpad.models.reference import snapshot
from latentpad.progress import stage
from latentpad.recipe.errors import RecipeError, Stopped
from latentpad.recipe.rl_schema import HealthSection
from latentpad.rollout import Sampling
from latentpad.seeding import rng_of
from latentpad.training.collate import Rows
from latentpad.training.episodes import make_prompt
from latentpad.training.interrupt import graceful_stop
from latentpad.training.learner import Learner
from latentpad.training.optimizer import Optimizer, learning_rate_scale
from latentpad.training.processes.strategy import SINGLE
from latentpad.training.proofs import PROBES, processes_agree, ratio_is_one, stop_token_is_learned
from latentpad.training.right_responses import Found, RightResponse, RightResponses, problem_at, section_of
from latentpad.training.rounds import place_in_rounds, steps_of_rounds
from latentpad.training.state import TrainingState
from latentpad.types import FinishReason, Rollout

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.progress import Bar
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine
    from latentpad.tasks import Task
    from latentpad.training.interrupt import Stop
    from latentpad.training.processes.strategy import Strategy
    from latentpad.training.run_folder import RunFolder


@dataclass
class CurrentRound:
    """The round that is under way, as a part of the training state.

    Attributes:
        begun: rounds that have been sampled; the last of them is under way.
        kept: what it learns from.
        metrics: of its sampling.
    """

    begun: int
    kept: list[RightResponse]
    metrics: dict[str, float]

    def state(self) -> dict[str, Any]:
        """Columns as tensors: there may be millions of tokens."""
        return {
            "begun": self.begun,
            "metrics": dict(self.metrics),
            "problem_ids": [response.problem_id for response in self.kept],
            "places": torch.tensor([response.place for response in self.kept], dtype=torch.int64),
            "hinted": torch.tensor([response.hinted for response in self.kept], dtype=torch.bool),
            "has_scratchpad": torch.tensor([response.has_scratchpad for response in self.kept], dtype=torch.bool),
            "lengths": torch.tensor([len(response.token_ids) for response in self.kept], dtype=torch.int64),
            "token_ids": torch.tensor([i for response in self.kept for i in response.token_ids], dtype=torch.int64),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.begun, self.metrics = state["begun"], dict(state["metrics"])
        texts = state["token_ids"].split(state["lengths"].tolist()) if state["problem_ids"] else ()
        columns = (state["places"].tolist(), state["problem_ids"], texts)
        flags = (state["hinted"].tolist(), state["has_scratchpad"].tolist())
        self.kept = [
            RightResponse(place, problem_id, tuple(ids.tolist()), hinted, has_scratchpad)
            for place, problem_id, ids, hinted, has_scratchpad in zip(*columns, *flags, strict=True)
        ]


class ExpertIteration:
    """Everything that a run of this method is made of, its rounds and its steps.

    What it climbs, for responses (z, a) of scratchpad z and answer a, with p = P(a is right) for problem x, before the
    token mean: with one try (`samples_per_prompt: 1`) the expected gradient of the kept responses' log likelihood is
    E[1(a is right) grad log pi(z, a | x)] = grad p, that of REINFORCE with rewards of 1 and 0; keeping one of k tries
    (`keep_per_prompt: 1`) it is (1 - (1 - p)^k) / p grad p, which tends to grad log p. Keeping all of k tries, equal
    ones once, a right response counts 1 - (1 - pi(z, a | x))^k: the more tries, the more alike are rare and frequent
    ones. That is the gradient at the weights that sampled, so of a first step from the `previous` weights; later steps,
    and all of a round that restarts from the `base`, go on towards the likeliest policy for the same responses.

    Gradient flows through z and a, of right responses only: nothing ever makes a response less likely but the sum of
    probabilities. A problem that is never solved has no gradient, unless the hint solves it: then its responses are not
    samples of pi(. | x), and none of the above holds for them.

    The loss of a step is the mean over all response tokens of its rows. So every token of the step counts alike, a long
    response in proportion to its length, as in the sum above; but the step is divided by the number of its tokens,
    which makes it the gradient of that sum in direction, not in size.

    Logprobs are those at `rollout.temperature`, without what `scratchpad: empty` forbids: those of the policy that
    samples.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        policy: Policy,
        engine: RolloutEngine,
        task: Task,
        text_format: Format,
        strategy: Strategy = SINGLE,
    ) -> None:
        """From the run's newest checkpoint if it has one.

        Raises:
            RecipeError: a round would have no step.
        """
        section, training, self.world = section_of(recipe), recipe.training, strategy.world
        self.recipe, self.policy, self.engine = recipe, policy, engine
        self.counts = steps_of_rounds(recipe)
        forbidden = policy.scratchpad_ids if recipe.scratchpad == "empty" else ()
        sampling = Sampling(recipe.rollout.temperature, recipe.rollout.max_new_tokens, forbidden)
        self.responses = RightResponses(recipe, policy, engine, task, text_format, sampling, self.world)
        # Before a checkpoint is taken up. Whoever goes on loads the same: `TrainingState` refuses other base weights.
        self.base = snapshot(policy) if section.restart == "base" and section.rounds > 1 else None
        self.optimizer = Optimizer(policy, training, strategy=strategy, schedule=self._rate_scale)
        self.fresh = self.optimizer.state()
        self.learner = Learner(policy, Likelihood(), self.optimizer, sampling.temperature, forbidden, world=self.world)
        self.health_section = HealthSection()  # the default tolerance of the proofs; the method takes no such section
        self.round = CurrentRound(0, [], {})
        self.state = TrainingState(run, policy, self.optimizer, training, {"round": self.round}, world=self.world)

    def engage(self) -> list[str]:
        """Put the strategy into effect, after the proofs; says what is."""
        return self.optimizer.engage()

    def prove_start(self) -> list[str]:
        """The start-up proofs of this loop, a line each.

        Raises:
            ProofFailed: one does not hold.
        """
        section, task = section_of(self.recipe), self.responses.task
        count = min(section.prompts_per_round, max(1, PROBES // section.samples_per_prompt))
        places = [(place, problem_at(task, self.recipe, 0, place)) for place in range(count)]
        self._sync()
        rollouts = self.engine.generate(self.responses.requests(0, places, None)[:PROBES], self.responses.sampling)
        lines = [ratio_is_one(self, rollouts), stop_token_is_learned(self, rollouts)]
        return [*lines, processes_agree(self)] if self.world.size > 1 else lines

    def train(self) -> None:
        """Train until `training.steps`, once engaged.

        Raises:
            Stopped: the user asked to stop; a checkpoint was left.
            RecipeError: a round kept nothing.
            MachineError: the grader failed too often.
            Diverged: the gradient is not finite.
        """
        steps, title = self.recipe.training.steps, f"{self.recipe.name} seed {self.recipe.seed}: expert iteration"
        with graceful_stop() as stop, stage(title, steps, self.state.step) as bar:
            self.state.begin()
            while self.state.step < steps:
                start, (number, at) = time.monotonic(), place_in_rounds(self.counts, self.state.step)
                if number == self.round.begun:
                    self.begin_round(number, bar, stop)
                sampled = time.monotonic()
                values = self.step(number, at)
                timing = {"rollout_seconds": sampled - start, "train_seconds": time.monotonic() - sampled}
                self.state.advance(values, timing, stop)
                bar.advance(note=f"round {number + 1}, loss {values['loss']:.3f}")

    def begin_round(self, number: int, bar: Bar, stop: Stop) -> None:
        """Sample by the weights as they are, keep what is right, and go back to where the round is to begin.

        Raises:
            RecipeError: nothing was right.
            Stopped: the user asked to stop; what was sampled of the round is forgotten.
            MachineError: the grader failed too often.
        """

        def pause(note: str) -> None:
            bar.advance(0, note)
            if self.world.any(stop.requested):
                raise Stopped(f"stopped while sampling, {note}; {self.state.keep()}")

        self._sync()
        found = self.responses.find(number, pause)
        bar.say(f"{self.recipe.name}: {_told(number, found)}")
        if not found.kept:
            raise RecipeError(
                f"expert_iteration: round {number + 1} kept no right response of {found.sampled}; the base must solve "
                "some problems: take a stronger model, easier cells, or more samples_per_prompt"
            )
        self.round.begun, self.round.kept, self.round.metrics = number + 1, found.kept, found.metrics
        self.state.counters.samples += found.sampled
        self.state.counters.tokens_generated += found.tokens
        if self.base is not None:
            with torch.no_grad():
                for name, parameter in self.policy.trainable().items():
                    parameter.copy_(self.base[name])
        self.optimizer.load(self.fresh)

    def step(self, number: int, at: int) -> dict[str, float]:
        """Step `at` (from 0) of round `number`: one optimizer step; its metrics and the round's. Raises `Diverged`."""
        rows = self.rows(number, at)
        batches = rows.batches(self.recipe.training.micro_batch_tokens, self.world)
        learned = self.learner.step(batches, self.state.step)
        self.state.counters.tokens_trained += sum(len(rollout.token_ids) for rollout in rows.rollouts)
        # No ratios to the sampler: after one step it is another policy, and with a hint it read another prompt.
        own = {name: learned[name] for name in ("loss", "grad_norm", "learning_rate")}
        return own | {"round": number + 1} | self.round.metrics

    def rows(self, number: int, at: int) -> Rows:
        """The rows of a step: the next ones of all that were kept, shuffled anew each time round."""
        kept, count = self.round.kept, section_of(self.recipe).rows_per_step
        epochs = range(at * count // len(kept), ((at + 1) * count - 1) // len(kept) + 1)
        stream = [index for epoch in epochs for index in self._order(number, epoch)]
        first = at * count - epochs.start * len(kept)
        chosen = [kept[index] for index in stream[first : first + count]]
        rollouts = [self._row(number, response) for response in chosen]
        lengths = [len(rollout.token_ids) for rollout in rollouts]
        limit = self.recipe.rollout.max_new_tokens
        weights = token_weights(self.learner.algorithm.needs.aggregation, lengths, limit)
        return Rows(rollouts, [1.0] * count, weights)

    def _order(self, number: int, epoch: int) -> list[int]:
        order = list(range(len(self.round.kept)))
        rng_of("expert iteration rows", self.recipe.seed, number, epoch).shuffle(order)
        return order

    def _row(self, number: int, response: RightResponse) -> Rollout:
        """On the question as it is, whether it was asked with a hint or not."""
        source = self.responses
        problem = problem_at(source.task, self.recipe, number, response.place)
        prompt, ids = make_prompt(self.policy, source.text_format, problem), response.token_ids
        # The sampler's logprobs are nobody's business: the loss is the likelihood alone. A right response has stopped.
        return Rollout(prompt, ids, (0.0,) * len(ids), FinishReason.STOP, self.state.step, "", 0)

    def _rate_scale(self, step: int) -> float:
        """The schedule of the learning rate, which each round begins anew, over its own steps."""
        number, at = place_in_rounds(self.counts, step)
        training = self.recipe.training.model_copy(update={"steps": self.counts[number]})
        return learning_rate_scale(training, at)

    def _sync(self) -> None:
        self.engine.sync(self.state.step, self.policy.trainable_hash())


def _told(number: int, found: Found) -> str:
    """A round's sampling in a line."""
    values = found.metrics
    hinted = f", {values['hinted_solved']:.0%} by the hint" if "hinted_solved" in values else ""
    return (
        f"round {number + 1}: {values['reward']:.1%} of responses right, {values['solved']:.1%} of problems solved"
        f"{hinted}; {len(found.kept)} rows kept, {values['scratchpad_rate']:.0%} of them with a scratchpad"
    )
