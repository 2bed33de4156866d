"""KL divergences to a reference, in the loss and in the reward: exact values and exact expected gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentpad.algorithms.parts import KLEstimator, kl_estimate
from latentpad.algorithms.rloo import RLOO
from tests.algorithms.world import LIMIT, MASK, PREFIXES, PROMPTS, RESPONSES, World, ascents, cosine, every_step, world

# One token: four outcomes of a policy and of a reference.
POLICY = torch.tensor([0.3, -0.9, 1.2, 0.1], dtype=torch.float64, requires_grad=True)
REFERENCE = torch.tensor([1.0, 0.2, -0.4, 0.6], dtype=torch.float64)

WORLD = world()
ANCHOR = world(seed=2)
COEF = 0.3


def kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) of two rows of logits."""
    difference = left.log_softmax(-1) - right.log_softmax(-1)
    return (left.softmax(-1) * difference).sum(-1)


def one_token(estimator: KLEstimator, reference: Tensor) -> tuple[float, Tensor]:
    """Expected value and expected gradient, over tokens that the policy sampled."""
    sampled = POLICY.softmax(-1).detach()
    mean = sampled @ kl_estimate(POLICY.log_softmax(-1), reference.log_softmax(-1), estimator)
    return mean.item(), torch.autograd.grad(mean, POLICY)[0]


def sequence_kl(policy: World, reference: World) -> Tensor:
    """[prompts] KL divergence of the whole responses."""
    difference = (policy.logprobs() - reference.logprobs().detach()).sum(-1)
    return (policy.probabilities() * difference).sum(-1)


def estimates(estimator: KLEstimator, reference: World = ANCHOR) -> Tensor:
    """[prompts, N] sums over the tokens of every response."""
    return (kl_estimate(WORLD.logprobs(), reference.logprobs().detach(), estimator) * MASK).sum(-1)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_have_the_divergence_as_their_mean(estimator: KLEstimator) -> None:
    # E[-d] = KL; k3 adds exp(d) - 1, of mean sum pi q / pi - 1 = 0
    assert one_token(estimator, REFERENCE)[0] == pytest.approx(kl(POLICY, REFERENCE).item(), abs=1e-12)
    # token by token along a response: the mean of the sum is the divergence of whole responses (chain rule)
    mean = (WORLD.probabilities() * estimates(estimator)).sum(-1)
    torch.testing.assert_close(mean, sequence_kl(WORLD, ANCHOR), rtol=0, atol=1e-12)
    assert mean.min() > 0.1


def test_k2_has_not_but_is_close_for_a_policy_that_is_close() -> None:
    # E[k2] - KL = E[k2 - k3] = -E[d^3] / 6 to leading order, while KL is of second order in d
    far, step = one_token("k2", REFERENCE)[0] / kl(POLICY, REFERENCE).item(), 1e-3
    assert abs(far - 1) > 0.1
    near = POLICY.detach() + step * (REFERENCE - POLICY.detach())
    gap = one_token("k2", near)[0] - kl(POLICY, near).item()
    cubes = (near.log_softmax(-1) - POLICY.log_softmax(-1).detach()) ** 3
    assert gap == pytest.approx(float(-(POLICY.softmax(-1).detach() @ cubes) / 6), rel=0.05)
    assert 0 < abs(gap) < step * kl(POLICY, near).item()


def test_k3_is_never_negative_and_k1_is() -> None:
    tokens = POLICY.log_softmax(-1), REFERENCE.log_softmax(-1)
    assert kl_estimate(*tokens, "k3").min() >= 0
    assert kl_estimate(*tokens, "k1").min() < -0.1


def test_in_the_loss_k2_has_the_gradient_of_the_divergence() -> None:
    # grad k2 = -d grad log pi, and grad KL = E[-d grad log pi] + E[grad log pi] = E[-d grad log pi]
    exact = torch.autograd.grad(kl(POLICY, REFERENCE), POLICY)[0]
    torch.testing.assert_close(one_token("k2", REFERENCE)[1], exact, rtol=0, atol=1e-12)
    assert exact.norm() > 0.1


def test_in_the_loss_k3_has_the_gradient_of_the_reversed_divergence() -> None:
    # grad k3 = (1 - exp(d)) grad log pi, of mean -sum q grad log pi = grad KL(q || pi)
    reverse = torch.autograd.grad(kl(REFERENCE, POLICY), POLICY)[0]
    forward = torch.autograd.grad(kl(POLICY, REFERENCE), POLICY)[0]
    torch.testing.assert_close(one_token("k3", REFERENCE)[1], reverse, rtol=0, atol=1e-12)
    assert (reverse - forward).norm() > 0.1 * forward.norm()


def test_in_the_loss_k1_pulls_nowhere_on_average() -> None:
    # grad k1 = grad log pi, of mean 0, whatever the reference
    torch.testing.assert_close(one_token("k1", REFERENCE)[1], torch.zeros_like(REFERENCE), rtol=0, atol=1e-12)
    mean = (WORLD.probabilities().detach() * estimates("k1")).sum()
    assert WORLD.gradient(mean).norm() < 1e-12


def test_in_the_loss_a_token_is_not_blamed_for_the_divergence_of_those_after_it() -> None:
    # several tokens: sum of k2 has the gradient of the divergences at the visited prefixes, the visits held
    # fixed. That of the whole response also moves the visits: sum_t grad log pi(token t) (KL still to come)
    visited = (WORLD.probabilities().detach() * estimates("k2")).sum(-1).mean()
    in_the_loss = WORLD.gradient(visited)
    whole = WORLD.gradient(sequence_kl(WORLD, ANCHOR).mean())
    rows = WORLD.logits.log_softmax(-1), ANCHOR.logits.detach().log_softmax(-1)
    divergences = kl(*rows)
    visits = visit_chances(WORLD)
    torch.testing.assert_close(
        in_the_loss, WORLD.gradient((visits.detach() * divergences).sum(-1).mean()), rtol=0, atol=1e-12
    )
    moved = WORLD.gradient((visits * divergences.detach()).sum(-1).mean())
    torch.testing.assert_close(in_the_loss + moved, whole, rtol=0, atol=1e-12)
    assert moved.norm() > 0.1 * whole.norm()


def visit_chances(policy: World) -> Tensor:
    """[prompts, prefixes] how likely a response passes each prefix."""
    passes = torch.tensor([[r[: len(text)] == text and len(r) > len(text) for r in RESPONSES] for text in PREFIXES])
    return policy.probabilities() @ passes.double().T


def climbed_by_rloo(rewards: Tensor) -> Tensor:
    """[D] expected ascent in pairs, mean over prompts, times the length limit that `constant` divides by."""
    pairs = [every_step(WORLD, (prompt,), 2) for prompt in range(PROMPTS)]
    return LIMIT * torch.stack([x.mean(ascents(WORLD, RLOO(), x, rewards=rewards)) for x in pairs]).mean(0)


def test_in_the_reward_the_divergence_of_whole_responses_is_paid_exactly() -> None:
    # RLOO is linear in the reward: E[(r - c k1) score] = grad E[r] - c (grad KL - E[grad k1]), and E[grad k1] = 0
    paid = WORLD.rewards - COEF * estimates("k1").detach()
    exact = WORLD.gradient((WORLD.pass_rates() - COEF * sequence_kl(WORLD, ANCHOR)).mean())
    ascent = climbed_by_rloo(paid)
    torch.testing.assert_close(ascent, exact, rtol=0, atol=1e-12)
    free = WORLD.gradient(WORLD.pass_rates().mean())
    assert (free - exact).norm() > 0.1 * exact.norm()


def test_k3_in_the_reward_climbs_something_else() -> None:
    # its own gradient, (1 - exp(d)) grad log pi, is not 0 on average: what is missing is the reversed divergence's
    paid = WORLD.rewards - COEF * estimates("k3").detach()
    ascent = climbed_by_rloo(paid)
    exact = WORLD.gradient((WORLD.pass_rates() - COEF * sequence_kl(WORLD, ANCHOR)).mean())
    own = WORLD.gradient((WORLD.probabilities().detach() * estimates("k3")).sum(-1).mean())
    torch.testing.assert_close(ascent, exact + COEF * own, rtol=0, atol=1e-12)
    assert own.norm() > 0.1
    assert cosine(ascent, exact) < 0.9999
