"""`method: rl`: sample, grade the answers, learn. Its data are problems; no type in it can hold a gold scratchpad."""

from __future__ import annotations

import time
from statistics import fmean
from typing import TYPE_CHECKING

from latentpad.algorithms import token_weights
from latentpad.progress import stage
from latentpad.recipe.errors import MachineError
from latentpad.rollout import Request, Sampling
from latentpad.seeding import name_of, rng_of, seed_of
from latentpad.training.collate import micro_batches
from latentpad.training.episodes import grade_rollouts, into_groups, make_prompt
from latentpad.training.interrupt import graceful_stop
from latentpad.training.learner import Learner
from latentpad.training.optimizer import Optimizer
from latentpad.training.state import TrainingState
from reward import Outcome, writes_scratchpad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.algorithms import Algorithm
    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import RolloutEngine
    from latentpad.tasks import Task
    from latentpad.training.run_folder import RunFolder
    from latentpad.types import Batch, Group, Problem

# The share of a step's rollouts whose grading may break before the step is refused.
MAX_GRADER_FAILURES = 0.01


def step_problems(task: Task, recipe: Recipe, step: int) -> list[Problem]:
    """The problems of a step: the recipe's cells in turn, drawn by seed, step and place; the same for every arm."""
    count, cells = recipe.rl_section.prompts_per_step, recipe.rl_section.cells or task.cells
    return [task.draw("train", cells[i % len(cells)], name_of(recipe.seed, "rl", step, i)) for i in range(count)]


def step_requests(
    policy: Policy, text_format: Format, problems: Sequence[Problem], recipe: Recipe, step: int
) -> list[Request]:
    """`group_size` requests a problem, each with a seed hashed from the names of what it draws."""
    requests = []
    for place, problem in enumerate(problems):
        prompt = make_prompt(policy, text_format, problem)
        for sample in range(recipe.rl_section.group_size):
            seed = seed_of("rollout", recipe.seed, problem.task, problem.split, step, place, problem.id, sample)
            requests.append(Request(prompt, seed))
    return requests


def training_signal(groups: Sequence[Group], recipe: Recipe, step: int) -> list[list[float]]:
    """What advantages are made of: the rewards, or the same rewards dealt out at random within the step."""
    signal = [[episode.reward.value for episode in group.episodes] for group in groups]
    if recipe.rl_section.signal == "answer":
        return signal
    flat = [value for row in signal for value in row]
    rng_of("random signal", recipe.seed, step).shuffle(flat)
    dealt = iter(flat)
    return [[next(dealt) for _ in row] for row in signal]


def learning_batches(
    groups: Sequence[Group], signal: Sequence[Sequence[float]], algorithm: Algorithm, recipe: Recipe
) -> tuple[list[Batch], int]:
    """The step's micro-batches, and how many response tokens they train on.

    Weights are fixed over all rollouts of the step first; then groups whose signal is all equal are left out, for they
    carry no policy gradient. With a KL term they carry a gradient of that, and stay.
    """
    advantages = [a for row in algorithm.advantages(signal) for a in row]
    rollouts = [episode.rollout for group in groups for episode in group.episodes]
    limit = recipe.rollout.max_new_tokens
    weights = token_weights(algorithm.aggregation, [len(r.token_ids) for r in rollouts], limit)
    live = [algorithm.kl_coef > 0 or len(set(row)) > 1 for row in signal for _ in row]
    kept = [i for i, alive in enumerate(live) if alive]
    batches = micro_batches(
        [rollouts[i] for i in kept],
        [advantages[i] for i in kept],
        [weights[i] for i in kept],
        budget=recipe.training.micro_batch_tokens,
    )
    return batches, sum(len(rollouts[i].token_ids) for i in kept)


def step_metrics(groups: Sequence[Group], signal: Sequence[Sequence[float]]) -> dict[str, float]:
    """Means over the step's rollouts; `entropy` is the mean of -logprob of the sampled tokens, in nats a token."""
    episodes = [episode for group in groups for episode in group.episodes]
    outcomes = [episode.reward.outcome for episode in episodes]
    right = [fmean(e.reward.outcome is Outcome.CORRECT for e in group.episodes) for group in groups]
    logprobs = [value for episode in episodes for value in episode.rollout.logprobs]
    return {
        "reward": fmean(episode.reward.value for episode in episodes),
        "signal": fmean(value for row in signal for value in row),
        "scratchpad_rate": fmean(writes_scratchpad(episode.response) for episode in episodes),
        "live_groups": fmean(len(set(row)) > 1 for row in signal),
        "all_right": fmean(share == 1 for share in right),
        "all_wrong": fmean(share == 0 for share in right),
        "entropy": -fmean(logprobs),
        "response_tokens": fmean(len(episode.rollout.token_ids) for episode in episodes),
        "truncated": fmean(outcome is Outcome.TRUNCATED for outcome in outcomes),
        "unparseable": fmean(outcome is Outcome.UNPARSEABLE for outcome in outcomes),
    }


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


def train_rl(
    recipe: Recipe,
    run: RunFolder,
    policy: Policy,
    engine: RolloutEngine,
    task: Task,
    text_format: Format,
    algorithm: Algorithm,
) -> None:
    """Train until `training.steps`, from the run's newest checkpoint if it has one.

    Raises:
        Stopped: the user asked to stop; a checkpoint was left.
        MachineError: the grader failed too often.
        Diverged: the gradient is not finite.
    """
    training = recipe.training
    forbidden = policy.scratchpad_ids if recipe.scratchpad == "empty" else ()
    sampling = Sampling(recipe.rollout.temperature, recipe.rollout.max_new_tokens, forbidden)
    optimizer = Optimizer(policy, training)
    learner = Learner(policy, algorithm, optimizer, sampling.temperature, forbidden)
    state = TrainingState(run, policy, optimizer, training)
    with graceful_stop() as stop, stage(f"{recipe.name} seed {recipe.seed}: rl", training.steps, state.step) as bar:
        while state.step < training.steps:
            start = time.monotonic()
            engine.sync(state.step, policy.trainable_hash())
            problems = step_problems(task, recipe, state.step)
            rollouts = engine.generate(step_requests(policy, text_format, problems, recipe, state.step), sampling)
            episodes = grade_rollouts(policy, task, rollouts)
            groups, failed = graded_groups(into_groups(episodes, recipe.rl_section.group_size), state.step)
            sampled = time.monotonic()
            signal = training_signal(groups, recipe, state.step)
            batches, trained = learning_batches(groups, signal, algorithm, recipe)
            values = step_metrics(groups, signal) | {"grader_failed": failed} | learner.step(batches, state.step)
            state.counters.samples += len(rollouts)
            state.counters.tokens_generated += sum(len(rollout.token_ids) for rollout in rollouts)
            state.counters.tokens_trained += trained
            timing = {"rollout_seconds": sampled - start, "train_seconds": time.monotonic() - sampled}
            state.advance(values, timing, stop)
            bar.advance(note=f"reward {values['reward']:.2f}, pads {values['scratchpad_rate']:.0%}")
