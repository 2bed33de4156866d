"""From graded groups to the rows that are learned from: advantages, weights, and what a reference and a critic say."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from latentpad.algorithms import CriticAlgorithm, token_weights
from latentpad.training.collate import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from latentpad.algorithms import GroupAlgorithm
    from latentpad.models.reference import Reference
    from latentpad.training.correction import Correction
    from latentpad.training.critic import CriticLearner
    from latentpad.training.learner import Learner
    from latentpad.types import Rollout


@dataclass(frozen=True)
class Observed:
    """What was found out about each rollout before anything is learned from it.

    Attributes:
        reference_logprobs: [T_b] each; None without a reference.
        values: [T_b + 1] each; None without a critic.
        proximal_logprobs: [T_b] each, of the policy before this step's first update; None where nobody asked.
    """

    reference_logprobs: list[Tensor] | None
    values: list[Tensor] | None
    proximal_logprobs: list[Tensor] | None = None


@torch.no_grad()
def observe(
    rollouts: Sequence[Rollout],
    learner: Learner,
    *,
    reference: Reference | None,
    critic: CriticLearner | None,
    budget: int,
    proximal: bool = False,
) -> Observed:
    """One pass of the reference and of the critic over a step's rollouts, in micro-batches of `budget` tokens.

    With `proximal` also one of the policy as it is now, which is to be before the step's first update. The processes
    share the work out, and each is given all that was found.
    """
    if reference is None and critic is None and not proximal:
        return Observed(None, None)
    logprobs: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    own: dict[int, Tensor] = {}
    rows, world = Rows(rollouts, [0.0] * len(rollouts), [0.0] * len(rollouts)), learner.world
    for part in rows.parts(budget, world):
        batch = (rows.take(part).collate() if part else rows.idle()).to(learner.policy.device)
        if reference is not None and part:
            with reference.model():
                found = learner.forward(batch).logprobs.cpu()
            logprobs |= {i: found[at, : len(rollouts[i].token_ids)] for at, i in enumerate(part)}
        if proximal and part:
            with _evaluating(learner.policy.model):
                found = learner.forward(batch).logprobs.cpu()
            own |= {i: found[at, : len(rollouts[i].token_ids)] for at, i in enumerate(part)}
        if critic is not None:
            found = critic.estimate(batch).cpu()
            values |= {i: found[at, : len(rollouts[i].token_ids) + 1] for at, i in enumerate(part)}
    for theirs in world.gather((logprobs, values, own)):
        logprobs |= theirs[0]
        values |= theirs[1]
        own |= theirs[2]
    order = range(len(rollouts))
    return Observed(
        None if reference is None else [logprobs[i] for i in order],
        None if critic is None else [values[i] for i in order],
        [own[i] for i in order] if proximal else None,
    )


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """As the sampler drew: in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def make_rows(
    rollouts: Sequence[Rollout],
    signal: Sequence[Sequence[float]],
    algorithm: GroupAlgorithm | CriticAlgorithm,
    observed: Observed,
    *,
    max_new_tokens: int,
    reward_kl: float = 0.0,
    keep_all: bool = False,
    correction: Correction | None = None,
) -> Rows:
    """All rows of a step, with its advantages; weights are fixed over all of them before any is left out.

    Groups in which no advantage differs from 0 carry no policy gradient: they are left out, the rest keep their weight.

    A correction multiplies each token's weight by its importance weight, and nothing is divided by the sum of these:
    their mean under the sampler is 1 as it is, dividing would bias a small step, and the gradient of tokens that are
    truncated or masked is to be missing, not to be made up for by others. All of a token's loss is so weighted: the
    policy's, that of KL and entropy, and the values'. The ratio of the algorithm is then to the proximal policy, and so
    is the KL that is paid for. Advantages and returns are not corrected.

    Args:
        rollouts: of all groups, one group after the other.
        signal: what each earned, by group.
        algorithm: makes advantages of it.
        observed: what the reference and the critic say.
        max_new_tokens: the length limit.
        reward_kl: weight of KL to the reference in the reward, paid token by token (k1).
        keep_all: something else in the loss (KL, entropy) has a gradient on every row.
        correction: for rollouts of another policy than the one before this step, which `observed` must then hold.
    """
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    weights: Sequence[float | Tensor] = token_weights(algorithm.needs.aggregation, lengths, max_new_tokens)
    own = sampler = [torch.tensor(rollout.logprobs, dtype=torch.float64) for rollout in rollouts]
    proximal = None
    if correction is not None:
        assert observed.proximal_logprobs is not None
        own = proximal = observed.proximal_logprobs
        triples = zip(weights, proximal, sampler, strict=True)
        weights = [weight * correction.weights(new, old) for weight, new, old in triples]
    paid = None
    if reward_kl:
        assert observed.reference_logprobs is not None
        pairs = zip(own, observed.reference_logprobs, strict=True)
        paid = [reward_kl * (policy.double() - reference.double()) for policy, reference in pairs]
    if isinstance(algorithm, CriticAlgorithm):
        rows = _critic_rows(rollouts, signal, algorithm, observed, weights, paid)
        return replace(rows, proximal_logprobs=proximal)
    advantages, kept = _group_advantages(signal, algorithm, lengths, paid, keep_all)
    return Rows(rollouts, advantages, weights, observed.reference_logprobs, proximal_logprobs=proximal).take(kept)


def _group_advantages(
    signal: Sequence[Sequence[float]],
    algorithm: GroupAlgorithm,
    lengths: list[int],
    paid: list[Tensor] | None,
    keep_all: bool,
) -> tuple[list[float], list[int]]:
    """One a rollout, and the numbers of the rollouts that are learned from; the price of KL is taken from rewards."""
    places = iter(range(len(lengths)))
    grouped = [[next(places) for _ in row] for row in signal]
    if paid is not None:
        signal = [
            [value - float(paid[i].sum()) for value, i in zip(row, places_of, strict=True)]
            for row, places_of in zip(signal, grouped, strict=True)
        ]
    advantages = algorithm.advantages(signal, [[lengths[i] for i in row] for row in grouped])
    kept = [i for row, places_of in zip(advantages, grouped, strict=True) if keep_all or any(row) for i in places_of]
    return [a for row in advantages for a in row], kept


def _critic_rows(
    rollouts: Sequence[Rollout],
    signal: Sequence[Sequence[float]],
    algorithm: CriticAlgorithm,
    observed: Observed,
    weights: Sequence[float | Tensor],
    paid: list[Tensor] | None,
) -> Rows:
    """The reward stands at the last token, the price of KL at each; every row is kept, for values learn from all."""
    assert observed.values is not None
    lengths = torch.tensor([len(rollout.token_ids) for rollout in rollouts])
    rewards = torch.zeros(len(rollouts), int(lengths.max()), dtype=torch.float64)
    values = torch.zeros(len(rollouts), int(lengths.max()) + 1, dtype=torch.float64)
    flat = [value for group in signal for value in group]
    for row, (length, value) in enumerate(zip(lengths.tolist(), flat, strict=True)):
        if paid is not None:
            rewards[row, :length] -= paid[row]
        rewards[row, length - 1] += value
        values[row, : length + 1] = observed.values[row].double()
    truncated = torch.tensor([rollout.finish_reason == "LENGTH" for rollout in rollouts])
    advantages, returns = algorithm.token_advantages(rewards, values, lengths, truncated)

    def cut(tensor: Tensor) -> list[Tensor]:
        return [tensor[row, :length].float() for row, length in enumerate(lengths.tolist())]

    return Rows(rollouts, cut(advantages), weights, observed.reference_logprobs, observed.values, cut(returns))


def value_metrics(rows: Rows) -> dict[str, float]:
    """How well the values of before this step told the returns, over response tokens.

    Returns:
        `explained_variance`, 1 - Var(return - value) / Var(return), 0 where all returns are equal; and the mean
        absolute error in each quarter of the responses, `value_error_q1` the first.
    """
    assert rows.values is not None
    assert rows.returns is not None
    returns = torch.cat(list(rows.returns)).double()
    errors = returns - torch.cat([values[:-1] for values in rows.values]).double()
    spread = float(returns.var(correction=0))
    place = torch.cat([torch.arange(len(r)) * 4 // len(r) for r in rows.returns])
    quarters = {
        f"value_error_q{q + 1}": float(errors[place == q].abs().mean()) for q in range(4) if bool((place == q).any())
    }
    return {"explained_variance": 1 - float(errors.var(correction=0)) / spread if spread > 0 else 0.0, **quarters}
