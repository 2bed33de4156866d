"""Start-up proofs on the real model: that what is sampled, graded and learned from is one and the same policy.

Each is a known way in which systems like this one were silently wrong. A proof that fails refuses to train.
"""

from __future__ import annotations

import resource
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import log
from typing import TYPE_CHECKING, Any, Protocol

import torch

from latentpad.algorithms import AnswerAlgorithm, MemoryAlgorithm
from latentpad.algorithms.parts import kl_estimate
from latentpad.models.reference import snapshot
from latentpad.models.tokenizer import encode_strictly
from latentpad.recipe.errors import MachineError
from latentpad.training.answer_rows import make_answer_rows
from latentpad.training.collate import Rows
from latentpad.training.collect import step_problems, step_requests
from latentpad.training.episodes import make_prompt
from latentpad.training.memory import Memory, make_memory_rows
from latentpad.training.processes.world import ALONE
from latentpad.training.rows import Observed, make_rows, observe
from latentpad.types import FinishReason, Rollout
from reward import OPEN_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.recipe.rl_schema import HealthSection
    from latentpad.training.answer_rows import Answers
    from latentpad.training.learner import Learner
    from latentpad.training.processes.world import World
    from latentpad.training.rl import RLTrainer
    from latentpad.types import Batch

# Responses that the proofs at every start look at.
PROBES = 16
# The largest deviation of a logprob, in nats, where weights are float32; lower precisions are judged by KL.
LOGPROB_TOLERANCE = 1e-3
SPLIT_TOLERANCE = 1e-3
LEAST_ADVANTAGE = 0.01
_MEGABYTE = 2**20


class ProofFailed(MachineError):  # noqa: N818 (says what happened)
    """A start-up proof failed: training would be wrong on this machine, with this model. One line. Exit code 3."""


class Learns(Protocol):
    """What a loop must have for the proofs that ask nothing else of it; `RLTrainer` has it."""

    policy: Policy
    learner: Learner
    world: World
    health_section: HealthSection


def prove_start(trainer: RLTrainer) -> list[str]:
    """The proofs that run at every start of training, in less than the time of a step; what each proved, a line.

    Raises:
        ProofFailed: one does not hold.
    """
    rollouts = probe(trainer, PROBES)
    lines = [ratio_is_one(trainer, rollouts), stop_token_is_learned(trainer, rollouts)]
    if trainer.world.size > 1:
        lines.append(processes_agree(trainer))
    if trainer.kl.reference is not None and trainer.state.step == 0:
        lines.append(kl_is_zero(trainer, rollouts))
    return [*lines, weights_reach_the_engine(trainer), step_raises_right_answers(trainer, rollouts)]


def prove_all(trainer: RLTrainer) -> Iterator[str]:
    """All proofs, a line each as it is done.

    Raises:
        ProofFailed: one does not hold.
    """
    yield from prove_start(trainer)
    yield split_does_not_matter(trainer, probe(trainer, 2 * PROBES))
    yield worst_case_fits(trainer)
    yield step_time(trainer)


def processes_agree(trainer: Learns) -> str:
    """All processes start from the same weights, the trained and the frozen ones."""
    if not trainer.world.same((trainer.policy.trainable_hash(), trainer.policy.base_hash())):
        raise ProofFailed("the processes start from different weights: give all of them the same model.path")
    return f"{trainer.world.size} processes hold the same weights, to the bit"


def probe(trainer: RLTrainer, count: int) -> list[Rollout]:
    """About so many responses to the first problems of the run, whole groups."""
    recipe, collector = trainer.recipe, trainer.collector
    size = recipe.rl_section.group_size
    problems = step_problems(collector.task, recipe, 0, ladder=trainer.ladder)[: max(2, count // size)]
    requests = step_requests(trainer.policy, collector.text_format, problems, recipe, 0)
    if len({request.seed for request in requests}) < len(requests):
        raise ProofFailed("rollouts share a seed: those of a group would all be the same")
    trainer.engine.sync(trainer.state.step, trainer.policy.trainable_hash())
    return trainer.engine.generate(requests, collector.sampling)


def ratio_is_one(trainer: Learns, rollouts: Sequence[Rollout]) -> str:
    """Sampler and learner give the same logprobs: temperature, masks, positions and forbidden tokens are the same."""
    batch = _plain(rollouts).to(trainer.policy.device)
    with torch.no_grad():
        found = trainer.learner.forward(batch).logprobs
    logs = (found - batch.rollout_logprobs)[batch.response_mask].double()
    worst, kl = float(logs.abs().max()), float((logs.exp() - 1 - logs).mean())
    whole = next(iter(trainer.policy.trainable().values())).dtype in (torch.float32, torch.float64)
    exact = whole and trainer.policy.precision != "bf16"
    limit = trainer.health_section.max_mismatch_kl
    # `not <=`, so that nan fails
    if not kl <= limit or (exact and not worst <= LOGPROB_TOLERANCE):
        raise ProofFailed(
            f"sampler and learner disagree at equal weights: a logprob by {worst:.2g} nats, KL {kl:.2g} nats a token "
            f"(allowed {LOGPROB_TOLERANCE:g} and {limit:g}); is the temperature applied on both sides, once?"
        )
    return f"ratio is 1: sampler and learner agree on {len(logs)} tokens to {worst:.1g} nats"


def kl_is_zero(trainer: RLTrainer, rollouts: Sequence[Rollout]) -> str:
    """The reference is the policy that training starts from, unless the recipe names another."""
    section = trainer.recipe.rl_section.kl
    assert section is not None
    budget = trainer.recipe.training.micro_batch_tokens
    places = [parameter.data_ptr() for parameter in trainer.policy.trainable().values()]
    found = observe(rollouts, _alone(trainer), reference=trainer.kl.reference, critic=None, budget=budget)
    assert found.reference_logprobs is not None
    if places != [parameter.data_ptr() for parameter in trainer.policy.trainable().values()]:
        raise ProofFailed("the reference's weights stay in the policy after its forward pass: they would be trained")
    own = torch.cat([torch.tensor(r.logprobs, dtype=torch.float64) for r in rollouts])
    kl = float(kl_estimate(own, torch.cat(found.reference_logprobs).double(), "k3").mean())
    if section.reference in ("base", "moving") and not kl <= trainer.health_section.max_mismatch_kl:
        raise ProofFailed(
            f"KL to reference '{section.reference}' is {kl:.2g} nats a token before the first step, not 0"
        )
    return f"KL to reference '{section.reference}' is {kl:.1g} nats a token before the first step"


def stop_token_is_learned(trainer: Learns, rollouts: Sequence[Rollout]) -> str:
    """Every sampled stop token has a weight in the loss; a response that was cut has no stop token."""
    stops = set(trainer.policy.stop_ids)
    learned = 0
    for row, rollout in enumerate(rollouts):
        batch = _plain(rollouts[row : row + 1])
        weights = (batch.weights * batch.response_mask)[0]
        if rollout.finish_reason is FinishReason.STOP:
            if rollout.token_ids[-1] not in stops or not weights[len(rollout.token_ids) - 1] > 0:
                raise ProofFailed(
                    "a response that stopped has no weight on its stop token: it would never learn to stop"
                )
            learned += 1
        elif rollout.token_ids[-1] in stops:
            raise ProofFailed("a response that was cut by the length limit ends in a stop token that was not sampled")
    cut = len(rollouts) - learned
    return f"the stop token is in the loss: in {learned} responses that stopped; {cut} that were cut have none"


def weights_reach_the_engine(trainer: RLTrainer) -> str:
    """Moved weights move the engine's logprobs after a sync, and put back they give the same bits again."""
    before = _engine_logprobs(trainer)
    with _moved_weights(trainer.policy, _noise(trainer.policy)):
        moved = _engine_logprobs(trainer)
    after = _engine_logprobs(trainer)
    if before == moved:
        raise ProofFailed(
            "the engine's logprobs do not move when the trained weights do: it samples from other weights"
        )
    if before != after:
        raise ProofFailed("the engine's logprobs are not what they were after the trained weights were put back")
    change = max(abs(a - b) for a, b in zip(before, moved, strict=False))
    return (
        f"the engine follows the trained weights: moved, its logprobs change by up to {change:.1g} nats, and back to 0"
    )


def split_does_not_matter(trainer: RLTrainer, rollouts: Sequence[Rollout]) -> str:
    """The gradient of a step is the same from one micro-batch a row as from micro-batches of the recipe's size."""
    rows = _rows(trainer, rollouts)
    budgets, kl_coef = (trainer.recipe.training.micro_batch_tokens, 1), trainer.kl.loss_coef
    whole, single = (_gradient(trainer, _alone(trainer), rows, budget, kl_coef) for budget in budgets)
    size = float(whole.norm())
    difference = float((whole - single).norm()) / size if size > 0 else float("nan")
    if not difference <= SPLIT_TOLERANCE:
        raise ProofFailed(f"the gradient depends on the micro-batches: {difference:.2g} of its norm, allowed 0.001")
    return f"the gradient does not depend on the split into micro-batches: {difference:.1g} of its norm"


def step_raises_right_answers(trainer: RLTrainer, rollouts: Sequence[Rollout]) -> str:
    """A small step down the loss makes what was rewarded likelier than what was not, tokens by their credit."""
    if isinstance(trainer.algorithm, AnswerAlgorithm):
        return _step_moves_answers(trainer, trainer.algorithm, rollouts)
    bare, rows = replace(_alone(trainer), entropy_coef=0.0, critic=None), _rows(trainer, rollouts)
    largest = max(float(torch.as_tensor(advantage).abs().max()) for advantage in rows.advantages)
    if not largest > LEAST_ADVANTAGE:
        raise ProofFailed(
            f"rewards of 1 and 0 give advantages of at most {largest:.1g}: next to nothing would be learned"
        )
    gradient = _gradient(trainer, bare, rows, trainer.recipe.training.micro_batch_tokens, 0.0)
    if not float(gradient.norm()) > 0:
        raise ProofFailed("rewards that differ give a gradient of 0: nothing would be learned")
    batch = _plain(rollouts).to(trainer.policy.device)
    right = torch.tensor(_as_if_right(rollouts), device=trainer.policy.device)

    # Where credit decays, the first tokens of a long response have next to none: normalised, less than none.
    left = (
        batch.response_mask.sum(1, keepdim=True)
        - 1
        - torch.arange(batch.response_mask.shape[1], device=batch.weights.device)
    )
    credit = trainer.algorithm.needs.credit_decay ** left.clamp(min=0).double()

    def lead() -> float:
        with torch.no_grad():
            sums = (trainer.learner.forward(batch).logprobs.double() * credit).sum(1)
        return float(sums[right].mean() - sums[~right].mean())

    change = _best_change(trainer, gradient, lead)
    if not change > 0:
        raise ProofFailed(f"a step makes what was rewarded less likely (by {-change:.2g} nats): a sign is wrong")
    return f"a small step makes rewarded responses likelier than the others, by {change:.2g} nats"


def _best_change(trainer: RLTrainer, gradient: Tensor, measure: Callable[[], float]) -> float:
    """What a small step down the gradient adds to a measure of the policy; more than 0 if any small step does."""
    before, change = measure(), 0.0
    # The first may overshoot; bfloat16 does not see the small ones.
    for size in (1e-2, 1e-3, 1e-4) if trainer.policy.precision != "bf16" else (1e-1, 1e-2, 1.0):
        with _moved_weights(trainer.policy, -size * gradient / gradient.norm()):
            change = measure() - before
        if change > 0:
            break
    return change


def _step_moves_answers(trainer: RLTrainer, algorithm: AnswerAlgorithm, rollouts: Sequence[Rollout]) -> str:
    """What a small step does to answers and, by itself, to scratchpads, each weighed by the size of its coefficient.

    Gold answers become likelier, sampled answers that are as if wrong less likely; scratchpads after which the gold
    answer is as if likely become likelier than the others.
    """
    learner, budget = replace(_alone(trainer), entropy_coef=0.0), trainer.recipe.training.micro_batch_tokens
    rows = _rows(trainer, rollouts).take(range(len(rollouts)))  # not those of opening a scratchpad
    counts, said = _answers(trainer, algorithm, rollouts).scratchpads, []
    answers = ("gold answers", "likelier", 1.0) if algorithm.target == "reference" else ("wrong ones", "rarer", -1.0)
    for name, how, sign in (answers, ("scratchpads before likely gold answers", "likelier", 0.0)):
        columns, wanted = [], []
        for row, n, right in zip(rows.advantages, counts, _as_if_right(rollouts), strict=True):
            assert isinstance(row, torch.Tensor)
            of_part = (torch.arange(len(row)) < n) == (not sign)
            columns.append(row * of_part)
            wanted.append(columns[-1].abs() * (sign or (1.0 if right else -1.0)))
        if not any(bool(column.any()) for column in columns):
            continue
        gradient = _gradient(trainer, learner, replace(rows, advantages=columns), budget, 0.0)
        batch = replace(rows, advantages=wanted).collate().to(trainer.policy.device)
        change = _best_change(trainer, gradient, partial(_weighed_logprobs, trainer, batch))
        if not change > 0:
            raise ProofFailed(
                f"a step does not make {name} {how} (but by {-change:.2g} nats the other): a sign is wrong"
            )
        said.append(f"{name} {how}, by {change:.2g} nats")
    return f"a small step makes {' and '.join(said)}" if said else "no response that was tried has an answer to learn"


@torch.no_grad()
def _weighed_logprobs(trainer: RLTrainer, batch: Batch) -> float:
    """The sum of a batch's logprobs, each times its advantage."""
    return float((trainer.learner.forward(batch).logprobs.double() * batch.advantages)[batch.response_mask].sum())


def worst_case_fits(trainer: RLTrainer) -> str:
    """One micro-batch of the longest prompts and responses that there can be goes forward and back, critic included."""
    recipe, collector = trainer.recipe, trainer.collector
    problems = [collector.task.longest(cell) for cell in collector.task.cells]
    prompts = [make_prompt(trainer.policy, collector.text_format, problem) for problem in problems]
    longest = max(prompts, key=lambda prompt: len(prompt.token_ids))
    limit, budget = recipe.rollout.max_new_tokens, recipe.training.micro_batch_tokens
    # A scratchpad that is not closed stands before the longest gold answer, where these are learned.
    opening = encode_strictly(trainer.policy.tokenizer, OPEN_TAG) if recipe.scratchpad == "free" else ()
    filled = (*opening, *(longest.token_ids[i % len(longest.token_ids)] for i in range(limit)))[:limit]
    count = max(1, budget // (len(longest.token_ids) + limit))
    full = Rollout(longest, filled, (-1.0,) * limit, FinishReason.LENGTH, 0, "", 0)
    start, before = time.monotonic(), _peak(trainer.policy.device)
    try:
        _learn_nothing(trainer, [full] * count, budget)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ProofFailed(
            f"a micro-batch of {count} responses of {limit} tokens does not fit in memory: lower "
            "training.micro_batch_tokens"
        ) from error
    peak = _peak(trainer.policy.device)
    grown, seconds = (peak - before) // _MEGABYTE, time.monotonic() - start
    where = f"peak memory grew by {grown} MB to {peak // _MEGABYTE} MB" if grown else "within the memory used so far"
    return f"a worst-case micro-batch, {count} responses of {limit} tokens, fits: {seconds:.1f} s, {where}"


def step_time(trainer: RLTrainer) -> str:
    """One step's sampling, grading and gradient, timed; no weight is changed. Responses may grow longer later."""
    recipe = trainer.recipe
    start = time.monotonic()
    collected = trainer.collector.collect(0)
    sampled = time.monotonic() - start
    rollouts = [episode.rollout for group in collected.groups for episode in group.episodes]
    budget = recipe.training.micro_batch_tokens
    _learn_nothing(trainer, rollouts, budget)
    total = time.monotonic() - start
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    most = recipe.rollout.max_new_tokens * len(rollouts)
    return (
        f"a step takes about {total:.2g} s at first ({sampled:.2g} s of it to sample and grade {tokens} tokens, "
        f"at most {most}); {recipe.training.steps} steps: about {recipe.training.steps * total / 60:.2g} minutes"
    )


def _learn_nothing(trainer: RLTrainer, rollouts: Sequence[Rollout], budget: int) -> None:
    """All passes of a step over these rollouts, the critic's too; no weight is changed, no gradient left."""
    rows = _rows(trainer, rollouts)
    _gradient(trainer, _alone(trainer), rows, budget, trainer.kl.loss_coef)
    if trainer.critic is not None and trainer.critic.separate:
        observe(rollouts, _alone(trainer), reference=None, critic=trainer.critic, budget=budget)
        trainer.critic.accumulate(rows.batches(budget))
        for parameter in trainer.critic.trainable().values():
            parameter.grad = None


def _plain(rollouts: Sequence[Rollout]) -> Batch:
    return Rows(rollouts, [1.0] * len(rollouts), [1.0] * len(rollouts)).collate()


def _rows(trainer: RLTrainer, rollouts: Sequence[Rollout]) -> Rows:
    """The algorithm's own rows, as if all were one group and the responses to every other prompt were right.

    Within a prompt responses may all be alike, and their gradients cancel. The critic's values are taken to be 0: what
    it has learned of the true rewards says nothing of these.
    """
    signal = [[float(right) for right in _as_if_right(rollouts)]]
    budget, limit = trainer.recipe.training.micro_batch_tokens, trainer.recipe.rollout.max_new_tokens
    algorithm = trainer.algorithm
    if isinstance(algorithm, AnswerAlgorithm):
        answers = _answers(trainer, algorithm, rollouts)
        return make_answer_rows(answers, signal, algorithm, max_new_tokens=limit, keep_all=True)
    if isinstance(algorithm, MemoryAlgorithm):
        options: dict[str, Any] = {"max_new_tokens": limit, "budget": budget, "keep_all": True}
        return make_memory_rows(rollouts, signal, algorithm, Memory(), _alone(trainer), **options)[0]
    found = observe(rollouts, _alone(trainer), reference=trainer.kl.reference, critic=None, budget=budget)
    if trainer.critic is not None:
        found = Observed(found.reference_logprobs, [torch.zeros(len(r.token_ids) + 1) for r in rollouts])
    return make_rows(rollouts, signal, algorithm, found, max_new_tokens=limit, keep_all=True)


def _answers(trainer: RLTrainer, algorithm: AnswerAlgorithm, rollouts: Sequence[Rollout]) -> Answers:
    """What is learned from, as if gold answers were likely after the responses that are as if right, and only there."""
    found = trainer.reader(algorithm).read(rollouts, _alone(trainer))
    if found.logprobs is None:
        return found
    return replace(found, logprobs=[log(0.9 if right else 0.1) for right in _as_if_right(rollouts)])


def _as_if_right(rollouts: Sequence[Rollout]) -> list[bool]:
    prompts = list(dict.fromkeys(rollout.prompt.problem.id for rollout in rollouts))
    if len(prompts) < 2:
        return [i % 2 == 0 for i in range(len(rollouts))]
    return [prompts.index(rollout.prompt.problem.id) % 2 == 0 for rollout in rollouts]


def _alone(trainer: RLTrainer) -> Learner:
    """The learner of this process by itself: every process proves the same."""
    return replace(trainer.learner, world=ALONE)


def _gradient(trainer: RLTrainer, learner: Learner, rows: Rows, budget: int, kl_coef: float) -> Tensor:
    """The policy's gradient as one vector, in float64; all gradients are cleared."""
    learner.accumulate(rows.batches(budget), kl_coef)
    parameters = trainer.policy.trainable().values()
    vector = torch.cat(
        [(p.new_zeros(p.numel()) if p.grad is None else p.grad.flatten()).double().cpu() for p in parameters]
    )
    for parameter in [*parameters, *(trainer.critic.trainable().values() if trainer.critic is not None else ())]:
        parameter.grad = None
    return vector


def _engine_logprobs(trainer: RLTrainer) -> list[float]:
    return [value for rollout in probe(trainer, 2) for value in rollout.logprobs]


def _noise(policy: Policy) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(p.numel() for p in policy.trainable().values()), generator=generator) * 0.02


@contextmanager
def _moved_weights(policy: Policy, by: Tensor) -> Iterator[None]:
    """Within the block the trained weights are off by a vector; after it each is what it was, to the bit."""
    kept = snapshot(policy)
    parameters = policy.trainable()
    try:
        with torch.no_grad():
            parts = torch.split(by, [p.numel() for p in parameters.values()])
            for parameter, part in zip(parameters.values(), parts, strict=True):
                parameter.add_(part.view_as(parameter).to(parameter.device, parameter.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def _peak(device: str) -> int:
    """The most memory that was held so far, in bytes: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
