"""The learner's logprobs of a batch's responses, under the very distribution that the sampler drew from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.types import Batch


def response_logprobs(
    model: Any, batch: Batch, *, temperature: float = 1.0, forbidden_ids: tuple[int, ...] = ()
) -> Tensor:
    """[B, T] logprobs in nats of the response tokens; entries outside the response mask mean nothing.

    Temperature and forbidden tokens are applied as in `latentpad.rollout.local.choose`: a ratio to the sampler's
    logprobs is 1 where the weights are the same.
    """
    length = batch.response_mask.shape[1]
    logits = model(
        input_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, :-1, :]
    if forbidden_ids:
        logits = logits.index_fill(2, torch.tensor(forbidden_ids, device=logits.device), -torch.inf)
    if temperature != 1:
        logits = logits / temperature
    response = batch.token_ids[:, -length:].unsqueeze(-1)
    logprobs: Tensor = logits.gather(-1, response).squeeze(-1) - logits.logsumexp(-1)
    # A forbidden token can only stand at padding, where -inf would poison the gradient.
    return logprobs.masked_fill(~batch.response_mask, 0.0)
