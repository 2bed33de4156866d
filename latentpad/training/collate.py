"""From episodes with advantages and weights to batches, cut by a budget of padded tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from latentpad.types import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def collate(rollouts: Sequence[Rollout], advantages: Sequence[float], weights: Sequence[float]) -> Batch:
    """One batch; all masks come from lengths.

    Args:
        rollouts: B of them.
        advantages: one a rollout, given to each of its tokens.
        weights: one a rollout, what each of its tokens counts in the whole step.
    """
    prompts = [rollout.prompt.token_ids for rollout in rollouts]
    responses = [rollout.token_ids for rollout in rollouts]
    before, after = max(map(len, prompts)), max(1, *map(len, responses))
    shape = (len(rollouts), before + after)
    token_ids, attention_mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    response_mask = torch.zeros(len(rollouts), after, dtype=torch.bool)
    logprobs, advantage, weight = (torch.zeros(len(rollouts), after) for _ in range(3))
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        start, end = before - len(prompt), before + len(response)
        token_ids[row, start:end] = torch.tensor([*prompt, *response])
        attention_mask[row, start:end] = 1
        response_mask[row, : len(response)] = True
        logprobs[row, : len(response)] = torch.tensor(rollouts[row].logprobs)
        advantage[row, : len(response)] = advantages[row]
        weight[row, : len(response)] = weights[row]
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    return Batch(token_ids, attention_mask, positions, response_mask, logprobs, advantage, weight)


def micro_batches(
    rollouts: Sequence[Rollout], advantages: Sequence[float], weights: Sequence[float], *, budget: int
) -> list[Batch]:
    """The same rollouts as several batches, rows of similar length together."""
    lengths = [len(rollout.prompt.token_ids) + len(rollout.token_ids) for rollout in rollouts]
    return [
        collate([rollouts[i] for i in part], [advantages[i] for i in part], [weights[i] for i in part])
        for part in cut_by_tokens(lengths, budget)
    ]
