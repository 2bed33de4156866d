"""What an importance correction repairs of rollouts of an older policy, and what is left; all expectations are exact.

A token's weight, proximal / sampler, corrects who chose that token, not who wrote what stands before and after it. What
is climbed is, summed over places t, the pass rate of a policy that writes token t itself and leaves all others to the
sampler. So responses of one token are corrected in full; of longer ones the error is of the order of the staleness, as
without a correction, but smaller. With the true values as advantages what follows no longer matters, and the first
token's distribution gets its exact gradient; only the chance of each prefix is the sampler's. Products of weights over
the whole response (with values: up to the token) leave nothing, and are the oracle here.

Where nothing is clipped, the plain loss with its ratio to the sampler has the very same gradient in a first update: its
ratio is the weight. It is clipping that tells them apart: it takes a token that the sampler wrote with another chance
for one that has moved too far, and drops it.
"""

from __future__ import annotations

from itertools import product
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from torch.nn.functional import pad

from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.ppo import PPO
from latentpad.algorithms.rloo import RLOO
from latentpad.training.correction import Correction
from latentpad.training.reduce import weighted_sum
from latentpad.training.rows import Observed, make_rows
from latentpad.types import FinishReason, Problem, Prompt, Rollout
from tests import tiny
from tests.algorithms.world import LIMIT, RESPONSES, TOKEN_IDS, World, cosine, world

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.algorithms import Algorithm

# The policy before this step. All is about prompt 0.
WORLD = world()
ASKED = Prompt(Problem("0", "world", "train", "", "", ""), "", (0,))
UNBOUNDED = Correction("truncated", inf)
# How the rollouts are learned from: corrected; with the ratio to the sampler; as if they were the policy's own.
How = Literal["corrected", "plain", "ignored"]


def older(staleness: float) -> World:
    """The policy that sampled: so far away in a fixed random direction of its logits."""
    generator = torch.Generator().manual_seed(7)
    step = torch.randn(WORLD.logits.shape, dtype=torch.float64, generator=generator)
    return World((WORLD.logits.detach() + staleness * step).requires_grad_(), WORLD.rewards)


SAMPLER = older(0.5)


def grpo(clip: float = inf) -> GRPO:
    """With pairs, on policy, it climbs the half of a LIMIT-th of the pass rate."""
    return GRPO(scale="none", clip_low=min(1, clip), clip_high=clip, aggregation="constant")


def critic(clip: float = inf) -> PPO:
    """Each token's advantage is what the values and the reward say of it alone."""
    return PPO(lambda_actor=0, normalise=False, clip_low=min(1, clip), clip_high=clip, aggregation="constant")


def expected(
    algorithm: Algorithm,
    how: How,
    *,
    sampler: World = SAMPLER,
    limit: int = LIMIT,
    correction: Correction = UNBOUNDED,
    rewards: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """[D] what a first update climbs on average, through `make_rows` itself.

    Args:
        algorithm: its advantages and its loss; a step is a pair of responses, or one with a critic.
        how: the rollouts are learned from.
        sampler: who wrote them.
        limit: they are cut after so many tokens.
        correction: where `how` is corrected.
        rewards: [N] in place of the world's.
        values: [N, T] of a critic.
    """
    own, theirs = WORLD.logprobs()[0], sampler.logprobs()[0].detach()
    earned = WORLD.rewards[0] if rewards is None else rewards
    told = own.detach() if how == "ignored" else theirs
    distinct = {response[:limit]: n for n, response in reversed(list(enumerate(RESPONSES)))}
    total = torch.zeros((), dtype=torch.float64)
    for drawn in product(distinct.items(), repeat=2 if values is None else 1):
        numbers = [n for _, n in drawn]
        lengths = {n: len(response) for response, n in drawn}
        rollouts = [Rollout(ASKED, r, tuple(told[n, : len(r)].tolist()), FinishReason.STOP, 0, "", 0) for r, n in drawn]
        known = None if values is None else [pad(values[n, : lengths[n]], (0, 1)) for n in numbers]
        observed = Observed(None, known, [own[n, : lengths[n]].detach() for n in numbers])
        with tiny.double():
            batch = make_rows(
                rollouts,
                [[float(earned[n]) for n in numbers]],
                algorithm,
                observed,
                max_new_tokens=limit,
                keep_all=True,
                correction=correction if how == "corrected" else None,
            ).collate()
        width = batch.response_mask.shape[1]
        loss = algorithm.token_loss(
            logprobs=own[numbers, :width],
            rollout_logprobs=batch.rollout_logprobs,
            advantages=batch.advantages,
            mask=batch.response_mask,
        ).loss
        total = total - (theirs[numbers, :width] * batch.response_mask).sum().exp() * weighted_sum(loss, batch)
    return WORLD.gradient(total)


def distance(found: Tensor, true: Tensor) -> float:
    """Between two gradients, in units of the second."""
    return float((found - true).norm() / true.norm())


# Responses of one token, which earn by it: the stop token 0, the letters 1 and 0.25.
SHORT: dict[str, Any] = {"limit": 1, "rewards": torch.tensor([0.0, 1.0, 0.25]).double()[TOKEN_IDS[:, 0]]}
ONE = WORLD.gradient((WORLD.logprobs()[0, [1, 2], 0].exp() * torch.tensor([1.0, 0.25])).sum())
TRUE = WORLD.gradient(WORLD.pass_rates()[0]) / LIMIT


def test_the_sampler_is_another_policy_and_there_is_something_to_climb() -> None:
    assert RESPONSES[1][:1] == (1,)
    ratios = (WORLD.logprobs()[0] - SAMPLER.logprobs()[0]).exp()
    assert ratios.min() < 0.6
    assert ratios.max() > 1.5
    assert ONE.norm() > 0.2
    assert TRUE.norm() > 0.02


@pytest.mark.parametrize(
    ("algorithm", "share"), [(grpo(), 0.5), (grpo(0.2), 0.5), (RLOO(), 1)], ids=["unclipped", "GRPO", "RLOO"]
)
def test_responses_of_one_token_are_corrected_in_full(algorithm: Algorithm, share: float) -> None:
    # a mean that holds the response itself halves the gradient of pairs
    torch.testing.assert_close(expected(algorithm, "corrected", **SHORT), share * ONE, rtol=0, atol=1e-12)
    assert distance(expected(algorithm, "ignored", **SHORT), share * ONE) > 0.25


def test_bounding_the_weights_of_one_token_costs_what_it_cuts_off() -> None:
    # E[min(w, cap) A score] is the gradient but for the tokens above the cap: the stop, w = 1.40, and letter 1, 1.41
    chances, sampled = (w.logprobs()[0, [0, 1, 2], 0].exp() for w in (WORLD, SAMPLER))
    ratios = (chances / sampled).detach()
    assert ratios.tolist() == pytest.approx([1.40, 1.41, 0.58], abs=0.005)
    baseline = float((sampled.detach() * torch.tensor([0, 1, 0.25])).sum())
    advantages = torch.tensor([0, 1, 0.25]).double() - baseline
    for mode, cap in product(("truncated", "masked"), (1.0, 1.2, 1.5, 10.0)):
        kept = ratios.clamp(max=cap) if mode == "truncated" else ratios * ((ratios >= 1 / cap) & (ratios <= cap))
        own = WORLD.logprobs()[0, [0, 1, 2], 0]
        # the pair's mean is 1/2 the response itself and 1/2 another one, of mean `baseline`
        wanted = WORLD.gradient((sampled.detach() * kept * advantages / 2 * own).sum())
        found = expected(grpo(0.2), "corrected", correction=Correction(mode, cap), **SHORT)  # type: ignore[arg-type]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    gaps = [
        distance(expected(grpo(), "corrected", correction=Correction("truncated", cap), **SHORT), ONE / 2)
        for cap in (1.0, 1.2, 10.0)
    ]
    assert gaps[0] > gaps[1] > 0.1
    assert gaps[2] < 1e-12


# Longer responses, advantages from rewards


def of_hybrids(sampler: World) -> Tensor:
    """[D] summed over t: the gradient of the pass rate where the policy writes token t and the sampler all others."""
    own, theirs = WORLD.logprobs()[0], sampler.logprobs()[0].detach()
    places = torch.eye(LIMIT, dtype=torch.float64)
    rates = [((theirs * (1 - place) + own * place).sum(-1).exp() * WORLD.rewards[0]).sum() for place in places]
    return WORLD.gradient(torch.stack(rates).sum()) / LIMIT


def test_of_longer_responses_each_tokens_own_choice_is_corrected_and_nothing_else() -> None:
    for sampler in (older(0.2), SAMPLER):
        found = expected(grpo(0.2), "corrected", sampler=sampler)
        torch.testing.assert_close(found, of_hybrids(sampler) / 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(of_hybrids(older(0)), TRUE, rtol=0, atol=1e-12)


def test_weights_of_whole_responses_leave_nothing() -> None:
    own, theirs = WORLD.logprobs()[0], SAMPLER.logprobs()[0].detach()
    first = (own - theirs)[:, 0].exp().detach()
    whole = (own - theirs).sum(-1).exp().detach()
    score = (theirs.sum(-1).exp() * whole * WORLD.rewards[0] * own.sum(-1)).sum() / LIMIT
    torch.testing.assert_close(WORLD.gradient(score), TRUE, rtol=0, atol=1e-12)
    # at the cost of a larger second moment, already at these few tokens
    chances = theirs.sum(-1).exp()
    assert [float(chances @ w.square()) for w in (first, whole)] == pytest.approx([1.1712, 1.2209], abs=1e-4)


def test_the_correction_is_nearer_to_the_policy_gradient_than_none_and_both_errors_are_of_the_order_of_staleness() -> (
    None
):
    gaps: dict[str, list[float]] = {"corrected": [], "ignored": [], "plain": []}
    for staleness in (0.1, 0.2, 0.4, 0.8):
        for how, found in gaps.items():
            found.append(distance(expected(grpo(0.2), how, sampler=older(staleness)), TRUE / 2))  # type: ignore[arg-type]
    assert gaps["corrected"] == pytest.approx([0.0377, 0.0776, 0.1623, 0.3371], abs=1e-4)
    assert gaps["ignored"] == pytest.approx([0.0620, 0.1259, 0.2555, 0.4964], abs=1e-4)
    # as long as no ratio to the sampler is clipped, the plain loss is the corrected one; then it loses most of it
    assert gaps["plain"] == pytest.approx([0.0377, 0.2088, 0.7859, 0.8331], abs=1e-4)
    assert cosine(expected(grpo(0.2), "corrected"), TRUE) > 0.97


def test_in_a_first_update_the_unclipped_ratio_to_the_sampler_is_the_weight() -> None:
    torch.testing.assert_close(expected(grpo(), "plain"), expected(grpo(), "corrected"), rtol=0, atol=1e-12)
    assert distance(expected(grpo(0.2), "plain"), expected(grpo(0.2), "corrected")) > 0.5


# Longer responses, advantages from the true values. PPO's rows hold them in float32


def with_values(how: How, *, clip: float = inf, sampler: World = SAMPLER) -> Tensor:
    return expected(critic(clip), how, sampler=sampler, values=WORLD.values()[0])


def by_prefix(gradient: Tensor) -> Tensor:
    """[prefixes, tokens] of prompt 0; the first prefix is the empty one."""
    return gradient.reshape(WORLD.logits.shape)[0]


def test_with_true_values_only_the_chance_of_each_prefix_is_the_samplers() -> None:
    own, theirs = WORLD.logprobs()[0], SAMPLER.logprobs()[0].detach()
    values = pad(WORLD.values()[0], (0, 1))
    advantages = values[:, 1:] - values[:, :-1]
    ends = (TOKEN_IDS != 0).sum(-1).clamp(max=LIMIT - 1)  # where a response's last token stands
    advantages[torch.arange(len(ends)), ends] += WORLD.rewards[0]
    weights = (own - theirs).exp().detach()
    chances = theirs.sum(-1).exp()[:, None]
    found = with_values("corrected")
    token = WORLD.gradient((chances * weights * advantages * own).sum()) / LIMIT
    torch.testing.assert_close(found, token, rtol=0, atol=1e-8)
    # the product of weights up to the token makes up for the prefix, too
    prefix = WORLD.gradient((chances * weights.cumprod(-1) * advantages * own).sum()) / LIMIT
    torch.testing.assert_close(prefix, TRUE, rtol=0, atol=1e-12)
    # what is off is each prefix's own chance, and the empty prefix has none
    gap = by_prefix(found) - by_prefix(TRUE)
    torch.testing.assert_close(gap[0], torch.zeros(3).double(), rtol=0, atol=1e-8)
    written = torch.stack([w.logprobs()[0, [1, 2], 0].exp() for w in (SAMPLER, WORLD)]).detach()
    for place, letter in ((1, 0), (2, 1)):
        ratio = written[0, letter] / written[1, letter]
        torch.testing.assert_close(by_prefix(found)[place], by_prefix(TRUE)[place] * ratio, rtol=0, atol=1e-8)
    assert by_prefix(TRUE)[1].norm() > 5e-3


def test_with_true_values_too_the_correction_is_nearer_than_none() -> None:
    gaps = {how: distance(with_values(how, clip=0.2), TRUE) for how in ("corrected", "ignored", "plain")}
    assert gaps == pytest.approx({"corrected": 0.1868, "ignored": 0.3410, "plain": 0.6706}, abs=1e-4)
    first = {how: distance(by_prefix(with_values(how))[0], by_prefix(TRUE)[0]) for how in ("corrected", "ignored")}
    assert first["corrected"] < 1e-6
    assert first["ignored"] > 0.1
