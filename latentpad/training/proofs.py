"""Start-up proofs on the real model: that what is sampled, graded and learned from is one and the same policy.

Each is a known way in which systems like this one were silently wrong. A proof that fails refuses to train.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING, Protocol

import torch

from latentpad.algorithms.parts import kl_estimate
from latentpad.models.tokenizer import encode_strictly
from latentpad.training.collect import step_problems, step_requests
from latentpad.training.episodes import make_prompt
from latentpad.training.proof_of_step import step_raises_right_answers
from latentpad.training.proof_parts import ProofFailed, alone, gradient_of, moved_weights, plain_batch, rows_as_if
from latentpad.training.rows import observe
from latentpad.types import FinishReason, Rollout
from reward import OPEN_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.recipe.rl_schema import HealthSection
    from latentpad.training.learner import Learner
    from latentpad.training.processes.world import World
    from latentpad.training.rl import RLTrainer

# Responses that the proofs at every start look at.
PROBES = 16
# The largest deviation of a logprob, in nats, where weights are float32; lower precisions are judged by KL.
LOGPROB_TOLERANCE = 1e-3
SPLIT_TOLERANCE = 1e-3
_MEGABYTE = 2**20


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
    batch = plain_batch(rollouts).to(trainer.policy.device)
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
    found = observe(rollouts, alone(trainer), reference=trainer.kl.reference, critic=None, budget=budget)
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
        batch = plain_batch(rollouts[row : row + 1])
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
    with moved_weights(trainer.policy, _noise(trainer.policy)):
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
    rows = rows_as_if(trainer, rollouts)
    budgets, kl_coef = (trainer.recipe.training.micro_batch_tokens, 1), trainer.kl.loss_coef
    whole, single = (gradient_of(trainer, alone(trainer), rows, budget, kl_coef) for budget in budgets)
    size = float(whole.norm())
    difference = float((whole - single).norm()) / size if size > 0 else float("nan")
    if not difference <= SPLIT_TOLERANCE:
        raise ProofFailed(f"the gradient depends on the micro-batches: {difference:.2g} of its norm, allowed 0.001")
    return f"the gradient does not depend on the split into micro-batches: {difference:.1g} of its norm"


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
    rows = rows_as_if(trainer, rollouts)
    gradient_of(trainer, alone(trainer), rows, budget, trainer.kl.loss_coef)
    if trainer.critic is not None and trainer.critic.separate:
        observe(rollouts, alone(trainer), reference=None, critic=trainer.critic, budget=budget)
        trainer.critic.accumulate(rows.batches(budget))
        for parameter in trainer.critic.trainable().values():
            parameter.grad = None


def _engine_logprobs(trainer: RLTrainer) -> list[float]:
    return [value for rollout in probe(trainer, 2) for value in rollout.logprobs]


def _noise(policy: Policy) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(p.numel() for p in policy.trainable().values()), generator=generator) * 0.02


def _peak(device: str) -> int:
    """The most memory that was held so far, in bytes: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
