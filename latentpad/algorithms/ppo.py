"""PPO with a critic (Schulman et al. 2017, 1707.06347); defaults after VC-PPO (Yuan et al. 2025, 2503.01491)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal

from latentpad.algorithms import Critic, Needs
from latentpad.algorithms.parts import check_clip, clipped_surrogate, token_ratio
from latentpad.recipe.errors import RecipeError
from latentpad.types import TokenLoss

if TYPE_CHECKING:
    from torch import Tensor


def gae(rewards: Tensor, values: Tensor, lengths: Tensor, lambdas: Tensor) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 16) without discount, [B, T].

    A_t = delta_t + lambda A_(t+1) with delta_t = r_t + V_(t+1) - V_t, over the response tokens and nothing else.

    Args:
        rewards: [B, T].
        values: [B, T + 1]; column `lengths[b]` is the value that the last token leads to.
        lengths: [B].
        lambdas: [B].

    >>> import torch
    >>> row = dict(rewards=torch.tensor([[0.0, 1.0]]), values=torch.tensor([[0.5, 0.25, 0.0]]))
    >>> gae(**row, lengths=torch.tensor([2]), lambdas=torch.tensor([0.5])).tolist()  # deltas -0.25, 0.75
    [[0.125, 0.75]]
    """
    deltas = (rewards + values[:, 1:] - values[:, :-1]).masked_fill(~before(lengths, rewards.shape[1]), 0.0)
    advantages = deltas.new_zeros(deltas.shape)
    running = deltas.new_zeros(len(deltas))
    for t in reversed(range(rewards.shape[1])):
        running = deltas[:, t] + lambdas * running
        advantages[:, t] = running
    return advantages


def before(lengths: Tensor, width: int) -> Tensor:
    """[B, width] whether a column stands before the end of its row."""
    columns = lengths.new_ones(len(lengths), width).cumsum(1) - 1
    return columns < lengths.unsqueeze(1)


def with_terminal(values: Tensor, lengths: Tensor, bootstrap: Tensor) -> Tensor:
    """The values with 0 where a response has ended (kept where `bootstrap`), and 0 beyond."""
    width = values.shape[1]
    kept = before(lengths, width) | (before(lengths + 1, width) & bootstrap.unsqueeze(1))
    return values.masked_fill(~kept, 0.0)


@dataclass(frozen=True)
class PPO:
    """Advantages by GAE from a learned value function; loss -min(ratio A, clip(ratio) A).

    The critic's targets are GAE returns with a lambda of their own: with 1.0 they are the Monte-Carlo returns, so that
    a reward at the last token reaches the first one undiminished.

    Attributes:
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: and above 1 + clip_high.
        lambda_actor: of the advantages.
        lambda_critic: of the returns.
        length_adaptive: alpha of VAPO's lambda 1 - 1 / (alpha * length) (Yue et al. 2025, 2504.05118), which replaces
            `lambda_actor` in responses so long that it is the larger of the two; short ones keep `lambda_actor`.
        normalise: advantages of the step are shifted and scaled to mean 0 and variance 1 over its tokens.
        value_clip: values move at most so far from the old ones before their loss stops falling; null never clips.
        bootstrap_truncated: a response cut by the length limit ends in the value of where it was cut, not in 0.
        aggregation: how token losses are averaged.
        critic: how values are learned.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    lambda_actor: float = 0.95
    lambda_critic: float = 1.0
    length_adaptive: float | None = None
    normalise: bool = True
    value_clip: float | None = 0.2
    bootstrap_truncated: bool = False
    aggregation: Literal["token", "sequence", "constant"] = "token"
    critic: Critic = field(default_factory=Critic)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check_clip(self.clip_low, self.clip_high)
        for name in ("lambda_actor", "lambda_critic"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name}: got {getattr(self, name)}; expected 0 to 1")
        for name in ("length_adaptive", "value_clip"):
            if (number := getattr(self, name)) is not None and not 0 < number < inf:
                raise RecipeError(f"{name}: got {number}; expected more than 0, or null")

    @property
    def needs(self) -> Needs:
        """The aggregation, and how credit decays."""
        return Needs(self.aggregation, credit_decay=self.lambda_actor)

    def lambdas(self, lengths: Tensor) -> Tensor:
        """The actor's lambda of each response, [B].

        >>> import torch
        >>> PPO(length_adaptive=0.5).lambdas(torch.tensor([4, 1000])).tolist()  # 1 - 1/2 and 1 - 1/500
        [0.95, 0.998]
        """
        fixed = lengths.double() * 0 + self.lambda_actor
        if self.length_adaptive is None:
            return fixed
        return fixed.maximum(1 - 1 / (self.length_adaptive * lengths.double()))

    def token_advantages(
        self, rewards: Tensor, values: Tensor, lengths: Tensor, truncated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns [B, T] of the whole step, in float64; 0 beyond each response."""
        values = with_terminal(values.double(), lengths, truncated & self.bootstrap_truncated)
        inside = before(lengths, rewards.shape[1])
        paid = rewards.double().masked_fill(~inside, 0.0)
        returns = gae(paid, values, lengths, lengths.double() * 0 + self.lambda_critic) + values[:, :-1]
        advantages = gae(paid, values, lengths, self.lambdas(lengths))
        if self.normalise:
            known = advantages[inside]
            spread = known.std() if known.numel() > 1 else 0.0
            advantages = (advantages - known.mean()) / (spread + 1e-8)
        return advantages.masked_fill(~inside, 0.0), returns.masked_fill(~inside, 0.0)

    def token_loss(self, *, logprobs: Tensor, rollout_logprobs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLoss:
        """Unreduced losses; all tensors [B, T], logprobs in nats."""
        ratio = token_ratio(logprobs, rollout_logprobs, mask)
        return clipped_surrogate(ratio, advantages, self.clip_low, self.clip_high)

    def value_loss(self, *, values: Tensor, old_values: Tensor, returns: Tensor) -> TokenLoss:
        """Half the squared error, the larger one of the value and of the value clipped near the old one; all [B, T]."""
        loss = (values - returns).square() / 2
        if self.value_clip is None:
            return TokenLoss(loss, {})
        near = old_values + (values - old_values).clamp(-self.value_clip, self.value_clip)
        clipped = (near - returns).square() / 2
        return TokenLoss(loss.maximum(clipped), {"value_clip_fraction": (clipped > loss).detach().to(loss.dtype)})
