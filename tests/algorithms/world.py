"""A policy small enough to enumerate: exact gradients, and what an algorithm does in expectation.

Two prompts, two letters and a stop token, at most three tokens: 15 responses a prompt, of lengths 1 to 3, 8 of them cut
by the limit. The policy is a table of logits, one row a prefix, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import comb, prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from latentpad.algorithms import Aggregation, GroupAlgorithm, TokenObjective, token_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STOP, LETTERS, LIMIT, PROMPTS = 0, (1, 2), 3, 2

# Every text that the policy may have written before it writes its next token.
PREFIXES = [text for length in range(LIMIT) for text in product(LETTERS, repeat=length)]
RESPONSES = [(*text, STOP) for text in PREFIXES] + list(product(LETTERS, repeat=LIMIT))

LENGTHS = torch.tensor([len(response) for response in RESPONSES])
TRUNCATED = torch.tensor([response[-1] != STOP for response in RESPONSES])
MASK = torch.arange(LIMIT) < LENGTHS[:, None]
# [N, T] the row of the table that a token was drawn from, and the token; 0 at padding.
PREFIX_IDS = torch.tensor([[PREFIXES.index(r[:t]) if t < len(r) else 0 for t in range(LIMIT)] for r in RESPONSES])
TOKEN_IDS = torch.tensor([[r[t] if t < len(r) else 0 for t in range(LIMIT)] for r in RESPONSES])


@dataclass(frozen=True)
class World:
    """A policy and what its responses earn; N = 15 responses, T = 3 tokens, D = all logits.

    Attributes:
        logits: [prompts, prefixes, tokens] float64, a leaf.
        rewards: [prompts, N].
    """

    logits: Tensor
    rewards: Tensor

    def logprobs(self) -> Tensor:
        """[prompts, N, T] of every token, 0 at padding."""
        return _logprobs(self.logits)

    def probabilities(self) -> Tensor:
        """[prompts, N] of every response."""
        return self.logprobs().sum(-1).exp()

    def pass_rates(self) -> Tensor:
        """[prompts] expected rewards."""
        return (self.probabilities() * self.rewards).sum(-1)

    def values(self) -> Tensor:
        """[prompts, N, T] what the policy will earn on average, before each token; 0 at padding."""
        probabilities = self.probabilities().detach()
        starts = torch.tensor([[r[: len(text)] == text for r in RESPONSES] for text in PREFIXES]).double()
        table = (probabilities * self.rewards) @ starts.T / (probabilities @ starts.T)
        return table[:, PREFIX_IDS] * MASK

    def gradient(self, objective: Tensor) -> Tensor:
        """[D] of anything made of this world's logits."""
        return torch.autograd.grad(objective, self.logits, retain_graph=True)[0].flatten()

    @cached_property
    def jacobian(self) -> Tensor:
        """[prompts * N * T, D] of every token's logprob."""
        rows = torch.stack([self.gradient(logprob) for logprob in self.logprobs().flatten()])
        return rows.detach()


def _logprobs(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)[:, PREFIX_IDS, TOKEN_IDS] * MASK


def world(seed: int = 1, *, right: Sequence[Sequence[int]] = ((1, 4), (1, 2, 3, 5, 6)), stop: float = 0.0) -> World:
    """A random policy; for each prompt the numbers of the responses that earn 1, none of them truncated.

    Args:
        seed: of the logits.
        right: those numbers.
        stop: added to the logit of the stop token.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(PROMPTS, len(PREFIXES), len(LETTERS) + 1, dtype=torch.float64, generator=generator)
    logits[..., STOP] += stop
    rewards = torch.zeros(PROMPTS, len(RESPONSES), dtype=torch.float64)
    for prompt, numbers in enumerate(right):
        rewards[prompt, list(numbers)] = 1
    assert not rewards[:, TRUNCATED].any()
    return World(logits.requires_grad_(), rewards)


@dataclass(frozen=True)
class Steps:
    """Every training step that may be drawn: S of them, of some groups of G rollouts.

    Attributes:
        prompts: which prompt each group asks.
        responses: [S, groups, G] numbers of the responses.
        probabilities: [S], summing to 1.
    """

    prompts: tuple[int, ...]
    responses: Tensor
    probabilities: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Exact expectation of values [S, ...]."""
        return torch.einsum("s,s...->...", self.probabilities, values)

    def variance(self, values: Tensor) -> float:
        """Exact expectation of the squared distance to the mean, of values [S, D]."""
        return float(self.mean((values - self.mean(values)).square().sum(-1)))


def every_step(world: World, prompts: Sequence[int], group_size: int) -> Steps:
    """All 15 ** (groups * G) of them."""
    size = len(prompts) * group_size
    responses = torch.cartesian_prod(*[torch.arange(len(RESPONSES))] * size).reshape(-1, len(prompts), group_size)
    chances = world.probabilities().detach()[torch.tensor(prompts)[:, None], responses]
    return Steps(tuple(prompts), responses, chances.prod(-1).prod(-1))


def once_each(function: Callable[[list[float]], Sequence[object]], rows: Tensor) -> Tensor:
    """A function of every row of [S, ...], called once for all rows that are equal."""
    flat = [tuple(row) for row in rows.flatten(1).tolist()]
    results = {row: function(list(row)) for row in dict.fromkeys(flat)}
    return torch.tensor([results[row] for row in flat], dtype=torch.float64)


def advantages_of(algorithm: GroupAlgorithm, steps: Steps, rewards: Tensor) -> Tensor:
    """[S, groups, G] from rewards [prompts, N]."""
    earned = rewards[torch.tensor(steps.prompts)[:, None], steps.responses]
    count, size = earned.shape[1:]

    def call(row: list[float]) -> list[list[float]]:
        groups = [row[start : start + size] for start in range(0, len(row), size)]
        return algorithm.advantages(groups[:count], [[int(n) for n in group] for group in groups[count:]])

    return once_each(call, torch.cat([earned, LENGTHS[steps.responses].double()], dim=1))


def ascents(
    world: World,
    algorithm: GroupAlgorithm,
    steps: Steps,
    *,
    aggregation: Aggregation | None = None,
    rewards: Tensor | None = None,
) -> Tensor:
    """[S, D] what gradient descent on the algorithm's loss climbs in each step, on policy.

    Args:
        world: the policy.
        algorithm: its advantages and token losses.
        steps: what was drawn.
        aggregation: in place of the algorithm's own.
        rewards: [prompts, N] in place of the world's.
    """
    flat = steps.responses.flatten(1)
    advantages = advantages_of(algorithm, steps, world.rewards if rewards is None else rewards).flatten(1)
    weigh = aggregation or algorithm.needs.aggregation
    weights = once_each(lambda row: token_weights(weigh, [int(n) for n in row], LIMIT), LENGTHS[flat])
    prompts = torch.tensor(steps.prompts).repeat_interleave(steps.responses.shape[-1]).expand_as(flat)
    return -token_gradients(world, algorithm, prompts, flat, advantages[..., None].expand(-1, -1, LIMIT), weights)


def token_gradients(
    world: World, algorithm: TokenObjective, prompts: Tensor, responses: Tensor, advantages: Tensor, weights: Tensor
) -> Tensor:
    """[S, D] gradients of sum(loss * weights), from [S, B] prompts, responses and weights, [S, B, T] advantages.

    Padding is filled with rubbish, which must not matter.
    """
    mask = MASK[responses].flatten(0, 1)
    sampled = world.logprobs().detach()[prompts, responses].flatten(0, 1)
    logprobs = torch.where(mask, sampled, 0.7).requires_grad_()
    token_loss = algorithm.token_loss(
        logprobs=logprobs,
        rollout_logprobs=torch.where(mask, sampled, -0.3),
        advantages=torch.where(mask, advantages.flatten(0, 1), 5.0),
        mask=mask,
    )
    loss = (token_loss.loss * weights.flatten()[:, None])[mask].sum()
    slopes = torch.autograd.grad(loss, logprobs)[0]
    assert not slopes[~mask].any()
    columns = ((prompts * len(RESPONSES) + responses)[..., None] * LIMIT + torch.arange(LIMIT)).flatten(1)
    table = torch.zeros(len(responses), len(world.jacobian), dtype=torch.float64)
    table.scatter_add_(1, columns, slopes.reshape(columns.shape))
    return table @ world.jacobian


def reward_weights(algorithm: GroupAlgorithm, rates: Sequence[float], group_size: int) -> list[float]:
    """The w_x of an algorithm whose expected ascent is the mean over prompts of w_x grad p_x, at any group size.

    Given its reward, a response's score grad log pi has mean grad p / p if right and -grad p / (1 - p) if wrong. So w_x
    is the mean of k / G A_right / p - (G - k) / G A_wrong / (1 - p) over binomial counts k of right responses.
    """
    weights = [0.0] * len(rates)
    for counts in product(range(group_size + 1), repeat=len(rates)):
        chance = prod(
            comb(group_size, k) * p**k * (1 - p) ** (group_size - k) for k, p in zip(counts, rates, strict=True)
        )
        rewards = [[1.0] * k + [0.0] * (group_size - k) for k in counts]
        rows = algorithm.advantages(rewards, [[1] * group_size for _ in counts])
        for x, (k, p, row) in enumerate(zip(counts, rates, rows, strict=True)):
            weights[x] += chance * (sum(row[:k]) / p - sum(row[k:]) / (1 - p)) / group_size
    return weights


def cosine(left: Tensor, right: Tensor) -> float:
    """1 where both point the same way."""
    return float(left @ right / left.norm() / right.norm())
