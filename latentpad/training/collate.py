"""From episodes with advantages and weights to batches, cut by a budget of padded tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from latentpad.training.processes.world import ALONE
from latentpad.types import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from latentpad.training.processes.world import World
    from latentpad.types import Rollout


def cut_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in order of length, cut so that no part takes more than `budget` padded tokens (one row always may).

    >>> cut_by_tokens([5, 1, 5, 2], budget=10)
    [[1, 3], [0, 2]]
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if parts and (len(parts[-1]) + 1) * lengths[index] <= budget:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


def deal(lengths: Sequence[int], budget: int, rank: int, size: int) -> list[list[int]]:
    """Indices of the micro-batches of one of `size` processes: as many for each, the last ones empty where need be.

    Rows are dealt out in order of length, so that all processes have the same work, and cut as by `cut_by_tokens`.

    >>> [deal([5, 1, 5, 2], 10, rank, 2) for rank in range(2)]
    [[[1, 0]], [[3, 2]]]
    >>> [deal([9, 9, 9], 10, rank, 2) for rank in range(2)]
    [[[0], [2]], [[1], []]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    cuts = []
    for share in (order[first::size] for first in range(size)):
        parts = cut_by_tokens([lengths[i] for i in share], budget)
        cuts.append([[share[at] for at in part] for part in parts])
    return cuts[rank] + [[]] * (max(map(len, cuts)) - len(cuts[rank]))


@dataclass(frozen=True)
class Rows:
    """B rollouts with all that the learner needs of each, a column an attribute.

    Attributes:
        rollouts: B of them, response b of T_b tokens.
        advantages: one a rollout, given to each of its tokens, or [T_b], one a token.
        weights: one a rollout, what each of its tokens counts in the whole step, or [T_b], one a token.
        reference_logprobs: [T_b] each, or None.
        values: [T_b + 1] each, or None.
        returns: [T_b] each, or None.
        proximal_logprobs: [T_b] each, which stand in for the sampler's; None where the sampler's own do.
    """

    rollouts: Sequence[Rollout]
    advantages: Sequence[float | Tensor]
    weights: Sequence[float | Tensor]
    reference_logprobs: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    returns: Sequence[Tensor] | None = None
    proximal_logprobs: Sequence[Tensor] | None = None

    def take(self, indices: Sequence[int], *, scale: float = 1.0) -> Rows:
        """These rows, their weights times `scale`."""

        def pick(column: Any) -> Any:
            return None if column is None else [column[i] for i in indices]

        weights = [self.weights[i] * scale for i in indices]
        columns = (self.reference_logprobs, self.values, self.returns, self.proximal_logprobs)
        return Rows(pick(self.rollouts), pick(self.advantages), weights, *map(pick, columns))

    def parts(self, budget: int, world: World = ALONE) -> list[list[int]]:
        """Indices of this process's micro-batches of at most `budget` padded tokens, rows of similar length together.

        Every process has as many; the last ones may be empty.
        """
        return deal([len(r.prompt.token_ids) + len(r.token_ids) for r in self.rollouts], budget, world.rank, world.size)

    def batches(self, budget: int, world: World = ALONE) -> list[Batch]:
        """This process's rows as micro-batches."""
        return [self.take(part).collate() if part else self.idle() for part in self.parts(budget, world)]

    def idle(self) -> Batch:
        """A micro-batch without a response token, for a process that waits for others: it has no loss, no gradient."""
        shortest = min(range(len(self.rollouts)), key=lambda i: len(self.rollouts[i].token_ids))
        batch = self.take([shortest]).collate()
        return replace(batch, response_mask=torch.zeros_like(batch.response_mask))

    def collate(self) -> Batch:
        """One batch; all masks come from lengths."""
        prompts = [rollout.prompt.token_ids for rollout in self.rollouts]
        responses = [rollout.token_ids for rollout in self.rollouts]
        before, after = max(map(len, prompts)), max(1, *map(len, responses))
        shape = (len(self.rollouts), before + after)
        token_ids, attention_mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            start, end = before - len(prompt), before + len(response)
            token_ids[row, start:end] = torch.tensor([*prompt, *response])
            attention_mask[row, start:end] = 1
        lengths = torch.tensor([len(response) for response in responses])
        logprobs = self.proximal_logprobs
        if logprobs is None:
            logprobs = [torch.tensor(rollout.logprobs) for rollout in self.rollouts]
        return Batch(
            token_ids=token_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
            response_mask=torch.arange(after) < lengths.unsqueeze(1),
            rollout_logprobs=self._column(logprobs, after),
            advantages=self._column(self.advantages, after),
            weights=self._column(self.weights, after),
            reference_logprobs=None
            if self.reference_logprobs is None
            else self._column(self.reference_logprobs, after),
            values=None if self.values is None else self._column(self.values, after + 1),
            returns=None if self.returns is None else self._column(self.returns, after),
        )

    def _column(self, column: Sequence[float | Tensor], width: int) -> Tensor:
        """[B, width], 0 beyond each row; a single number stands at every response token."""
        tensor = torch.zeros(len(column), width)
        for row, entry in enumerate(column):
            length = len(entry) if isinstance(entry, torch.Tensor) else len(self.rollouts[row].token_ids)
            tensor[row, :length] = entry
        return tensor
