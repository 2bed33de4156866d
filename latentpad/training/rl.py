"""`method: rl`: sample, grade the answers, learn. Its data are problems; no type in it can hold a gold scratchpad."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from latentpad.algorithms import AnswerAlgorithm, CriticAlgorithm, MemoryAlgorithm
from latentpad.progress import stage
from latentpad.recipe.errors import Diverged
from latentpad.recipe.rl_schema import HealthSection
from latentpad.rollout import Sampling
from latentpad.rollout.crew import PoolLost
from latentpad.rollout.weights import SyncError
from latentpad.seeding import rng_of
from latentpad.training.ahead import Ahead
from latentpad.training.answer_rows import AnswerReader, make_answer_rows
from latentpad.training.collate import Rows
from latentpad.training.collect import Collector
from latentpad.training.correction import Correction, staleness_metrics
from latentpad.training.critic import CriticLearner
from latentpad.training.health import Health
from latentpad.training.interrupt import graceful_stop
from latentpad.training.kl_term import KLTerm
from latentpad.training.ladder import Ladder
from latentpad.training.learner import Learner
from latentpad.training.memory import Memory, make_memory_rows
from latentpad.training.optimizer import Optimizer
from latentpad.training.processes.strategy import SINGLE
from latentpad.training.rows import make_rows, observe, value_metrics
from latentpad.training.signal import training_signal, verdicts
from latentpad.training.state import TrainingState
from latentpad.training.step_metrics import over_updates, step_metrics

if TYPE_CHECKING:
    from latentpad.algorithms import Algorithm
    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.progress import Bar
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine
    from latentpad.tasks import Task
    from latentpad.training.collect import Collected
    from latentpad.training.interrupt import Stop
    from latentpad.training.processes.strategy import Strategy
    from latentpad.training.run_folder import RunFolder
    from latentpad.training.state import Part


class RLTrainer:
    """Everything that an RL run is made of, and its steps."""

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        policy: Policy,
        engine: RolloutEngine,
        task: Task,
        text_format: Format,
        algorithm: Algorithm,
        strategy: Strategy = SINGLE,
    ) -> None:
        """From the run's newest checkpoint if it has one."""
        section, training, self.world = recipe.rl_section, recipe.training, strategy.world
        self.recipe, self.run, self.policy, self.task = recipe, run, policy, task
        self.engine, self.algorithm = engine, algorithm
        forbidden = policy.scratchpad_ids if recipe.scratchpad == "empty" else ()
        sampling = Sampling(recipe.rollout.temperature, recipe.rollout.max_new_tokens, forbidden)
        self.critic, idle = None, 0
        if isinstance(algorithm, CriticAlgorithm):
            self.critic = CriticLearner(policy, algorithm, training, seed=recipe.seed, strategy=strategy)
            idle = algorithm.critic.pretraining_steps
        self.idle_steps = idle
        self.optimizer = Optimizer(policy, training, idle_steps=idle, strategy=strategy)
        self.kl = KLTerm(policy, section.kl)
        self.learner = Learner(
            policy,
            algorithm,
            self.optimizer,
            sampling.temperature,
            forbidden,
            kl_estimator=self.kl.estimator,
            entropy_coef=section.entropy_coef,
            critic=self.critic if self.critic is not None and not self.critic.separate else None,
            world=self.world,
        )
        self.ladder = None if section.ladder is None else Ladder(section.ladder)
        rounds = algorithm.needs.sampling_rounds
        self.collector = Collector(recipe, policy, engine, task, text_format, sampling, rounds, self.ladder, self.world)
        mode, cap = recipe.rollout.correction, recipe.rollout.correction_cap
        self.correction = None if mode is None or cap is None else Correction(mode, cap)
        staleness = recipe.rollout.staleness
        self.ahead = Ahead(self.collector, staleness) if staleness else None
        self.health_section = recipe.health or HealthSection()
        self.health = Health(self.health_section)
        self.memory = Memory() if isinstance(algorithm, MemoryAlgorithm) else None
        named: dict[str, Part | None] = {"critic": self.critic, "kl": self.kl, "ladder": self.ladder}
        named |= {"health": self.health, "ahead": self.ahead, "memory": self.memory}
        parts = {name: part for name, part in named.items() if part is not None}
        rolls_back = self.health_section.action == "roll_back"
        self.state = TrainingState(
            run, policy, self.optimizer, training, parts, keep=2 if rolls_back else 1, world=self.world
        )
        if self.critic is not None:
            self.critic.step_scale = self.optimizer.step_scale

    def engage(self) -> list[str]:
        """Put the strategy into effect, after the proofs; says what is."""
        return self.optimizer.engage() + ([] if self.critic is None else self.critic.engage())

    def train(self) -> None:
        """Train until `training.steps`, once engaged.

        Raises:
            Stopped: the user asked to stop; a checkpoint was left.
            MachineError: the grader failed too often.
            Diverged: the gradient is not finite, or an alarm stopped the run.
        """
        steps, title = self.recipe.training.steps, f"{self.recipe.name} seed {self.recipe.seed}: rl"
        with graceful_stop() as stop, stage(title, steps, self.state.step) as bar:
            self.state.begin()
            while self.state.step < steps:
                self.guarded_step(bar, stop)

    def step(self) -> tuple[dict[str, float], dict[str, float]]:
        """Sample, grade, learn; returns metrics and timing. Raises `MachineError`, `PoolLost` and `Diverged`."""
        start, step = time.monotonic(), self.state.step
        self.collector.timing.clear()
        collected = self._collect(step)
        sampled = time.monotonic()
        signal = training_signal(collected.kept, self.policy, self.task, self.recipe, self.algorithm.needs, step)
        rows, found = self.rows(collected, signal)
        values = step_metrics(self.policy, collected.groups, signal) | collected.metrics() | found
        if self.critic is not None:
            values |= value_metrics(rows)
        values |= self._learn(rows)
        if self.correction is not None:  # after `_learn`, whose mismatch_kl is then to the policy before this step
            values |= staleness_metrics(rows, self.correction)
        values |= self.kl.after_step(step, values.get("kl"))
        if self.ladder is not None:
            values["frontier"] = self.ladder.frontier
            right = verdicts(collected.groups, self.task, self.recipe)
            self.ladder.observe(
                [(g.prompt.problem.cell, each) for g, row in zip(collected.groups, right, strict=True) for each in row]
            )
        counters, episodes = self.state.counters, [e for group in collected.groups for e in group.episodes]
        counters.samples += len(episodes)
        counters.tokens_generated += sum(len(e.rollout.token_ids) for e in episodes)
        counters.tokens_trained += sum(len(rollout.token_ids) for rollout in rows.rollouts)
        timing = {"rollout_seconds": sampled - start, "train_seconds": time.monotonic() - sampled}
        return values, timing | self.collector.timing

    def _collect(self, step: int) -> Collected:
        """The step's groups: sampled now, or asked for some steps ago. Raises as `step`."""
        now = self.policy.trainable_hash()
        if self.ahead is not None:
            return self.ahead.collect(step, now)
        self.engine.sync(step, now)
        return self.collector.collect(step)

    def rows(self, collected: Collected, signal: list[list[float]]) -> tuple[Rows, dict[str, float]]:
        """What is learned from the groups that were kept, and metrics of how likely gold answers are, if asked."""
        rollouts = [episode.rollout for group in collected.kept for episode in group.episodes]
        if not rollouts:  # no group had a signal in any sampling round
            return Rows([], [], []), {}
        budget, limit = self.recipe.training.micro_batch_tokens, self.recipe.rollout.max_new_tokens
        keep_all = self.kl.loss_coef > 0 or self.learner.entropy_coef > 0
        if isinstance(self.algorithm, AnswerAlgorithm):
            answers = self.reader(self.algorithm).read(rollouts, self.learner)
            options: dict[str, Any] = {"max_new_tokens": limit, "reward_kl": self.kl.reward_coef, "keep_all": keep_all}
            return make_answer_rows(answers, signal, self.algorithm, **options), answers.metrics()
        if isinstance(self.algorithm, MemoryAlgorithm):
            assert self.memory is not None
            options = {"max_new_tokens": limit, "budget": budget, "reference": self.kl.reference, "keep_all": keep_all}
            return make_memory_rows(rollouts, signal, self.algorithm, self.memory, self.learner, **options)
        observed = observe(
            rollouts,
            self.learner,
            reference=self.kl.reference,
            critic=self.critic,
            budget=budget,
            proximal=self.correction is not None,
        )
        rows = make_rows(
            rollouts,
            signal,
            self.algorithm,
            observed,
            max_new_tokens=limit,
            reward_kl=self.kl.reward_coef,
            keep_all=keep_all,
            correction=self.correction,
        )
        return rows, {}

    def reader(self, algorithm: AnswerAlgorithm) -> AnswerReader:
        """Tells scratchpads from answers in what this run samples."""
        budget, opens = self.recipe.training.micro_batch_tokens, self.recipe.scratchpad == "free"
        text_format, reference = self.collector.text_format, self.kl.reference
        return AnswerReader(self.task, text_format, algorithm.target, opens, reference, budget)

    def _learn(self, rows: Rows) -> dict[str, float]:
        """All optimizer steps of this step: of the policy unless only values are trained yet, and of the critic."""
        step, section = self.state.step, self.recipe.rl_section
        updates: list[dict[str, float]] = []
        budget = self.recipe.training.micro_batch_tokens
        if step >= self.idle_steps:
            for epoch in range(section.epochs):
                for part in self._minibatches(rows, section.minibatches, "policy", epoch):
                    updates.append(self.learner.step(part.batches(budget, self.world), step, self.kl.loss_coef))
        if self.critic is not None and (self.critic.separate or step < self.idle_steps):
            for epoch in range(section.epochs):
                for part in self._minibatches(rows, self.critic.minibatches, "critic", epoch):
                    updates.append(self.critic.step(part.batches(budget, self.world), step))
        return over_updates(updates)

    def _minibatches(self, rows: Rows, count: int, whose: str, epoch: int) -> list[Rows]:
        """The rows in `count` parts dealt at random, weights scaled so that each stands for the whole step."""
        count = min(count, len(rows.rollouts))
        if count <= 1:
            return [rows]
        order = list(range(len(rows.rollouts)))
        rng_of("minibatches", whose, self.recipe.seed, self.state.step, epoch).shuffle(order)
        return [rows.take(sorted(order[i::count]), scale=count) for i in range(count)]

    def guarded_step(self, bar: Bar, stop: Stop) -> None:
        """A step, what its alarms ask for, and its record.

        Raises:
            Diverged: an alarm says so and the recipe asks for no roll back, or too many were needed.
        """
        action = self.health_section.action
        try:
            values, timing = self.step()
        except Diverged as error:
            self.run.alarm(self.state.step + 1, "diverged", str(error), "stop" if action == "warn" else action)
            if action != "roll_back":
                raise
            self._roll_back(str(error), bar)
            return
        except (PoolLost, SyncError) as error:  # of sampling: nothing of this step was learned yet
            raise type(error)(f"{error}; {self.state.keep()}") from error
        judged = dict(values)
        if self.ahead is not None:
            judged.pop("mismatch_kl", None)  # between different versions it is no sign of trouble
        alarms = self.health.observe(self.state.step + 1, judged)
        for alarm in alarms:
            does = action if alarm.severe else "warn"
            if self.run.alarm(self.state.step + 1, alarm.name, alarm.message, does):
                bar.say(f"{self.recipe.name}: alarm {alarm.name}, {alarm.message} [{does}]")
        severe = [alarm.message for alarm in alarms if alarm.severe]
        if severe and action == "stop":
            raise Diverged(f"{severe[0]} (health.action is stop)")
        if severe and action == "roll_back":
            self._roll_back(severe[0], bar)
            return
        good = self.health.good or action != "roll_back"
        self.state.advance(values, timing, stop, good=good)
        bar.advance(note=f"reward {values['reward']:.2f}, pads {values['scratchpad_rate']:.0%}")

    def _roll_back(self, why: str, bar: Bar) -> None:
        health, now = self.health_section, self.state.step
        if self.state.roll_backs >= health.max_roll_backs:
            raise Diverged(f"{why}; {health.max_roll_backs} roll backs did not help")
        self.state.roll_back(health.step_factor, why)
        if self.critic is not None:
            self.critic.step_scale = self.optimizer.step_scale
        bar.say(
            f"{self.recipe.name}: {why}; rolled back to step {self.state.step}, learning rates now "
            f"times {self.optimizer.step_scale:g}"
        )
        bar.advance(self.state.step - now)
