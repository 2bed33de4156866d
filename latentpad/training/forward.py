"""What the learner needs of a model on a batch: logprobs, under the very distribution that the sampler drew from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from latentpad.training.chunked_head import call_in_chunks, head_to_chunk

if TYPE_CHECKING:
    from torch import Tensor

    from latentpad.types import Batch


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward pass over a batch; entries outside the response mean nothing.

    Attributes:
        logprobs: [B, T] in nats, of the response tokens.
        entropy: [B, T] in nats, of the distribution that each was drawn from; None unless asked for.
        hidden: [B, T + 1, H] last hidden states: column t is what token t is predicted from; None unless asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None
    hidden: Tensor | None


def forward(
    model: Any,
    batch: Batch,
    *,
    temperature: float = 1.0,
    forbidden_ids: tuple[int, ...] = (),
    entropy: bool = False,
    hidden: bool = False,
) -> Forward:
    """Logprobs of the response tokens, and what else is asked for.

    Temperature and forbidden tokens are applied as in `latentpad.rollout.local.choose`: a ratio to the sampler's
    logprobs is 1 where the weights are the same. Where logits of the whole batch would be too large, they are computed
    a chunk at a time (`latentpad.training.chunked_head`), and never for padding.
    """
    length = batch.response_mask.shape[1]
    call = partial(_call, model, batch, keep=length + 1, output_hidden_states=hidden)
    head = head_to_chunk(model, tokens=batch.response_mask.numel())
    if head is None:
        out = call()
        logprobs, spread = _from_logits(out, batch, temperature, forbidden_ids, entropy)
    else:
        out = call_in_chunks(call, head, batch, temperature=temperature, forbidden_ids=forbidden_ids, entropy=entropy)
        logprobs, spread = out.logits.unbind(-1)
    states = out.hidden_states[-1][:, -length - 1 :] if hidden else None
    return Forward(logprobs, spread if entropy else None, states)


def response_logprobs(
    model: Any, batch: Batch, *, temperature: float = 1.0, forbidden_ids: tuple[int, ...] = ()
) -> Tensor:
    """[B, T] logprobs in nats of the response tokens; entries outside the response mask mean nothing."""
    return forward(model, batch, temperature=temperature, forbidden_ids=forbidden_ids).logprobs


def response_hidden(model: Any, batch: Batch) -> Tensor:
    """[B, T + 1, H] last hidden states: column t is the state before token t, the one after the last token too."""
    width = batch.response_mask.shape[1] + 1
    hidden: Tensor = _call(model, batch, keep=1, output_hidden_states=True).hidden_states[-1][:, -width:]
    return hidden


def _from_logits(
    out: Any, batch: Batch, temperature: float, forbidden_ids: tuple[int, ...], entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Logprobs and entropies [B, T] from the model's logits [B, T + 1, V]."""
    logits = out.logits[:, :-1, :]
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits  # as the sampler does
    if forbidden_ids:
        logits = logits.index_fill(2, torch.tensor(forbidden_ids, device=logits.device), -torch.inf)
    if temperature != 1:
        logits = logits / temperature
    response = batch.token_ids[:, -logits.shape[1] :].unsqueeze(-1)
    total = logits.logsumexp(-1)
    logprobs: Tensor = logits.gather(-1, response).squeeze(-1) - total
    spread = None
    if entropy:
        # A forbidden token has probability 0 and adds nothing; 0 * -inf would add nan.
        finite = logits.masked_fill(logits == -torch.inf, 0.0)
        spread = total - ((logits - total.unsqueeze(-1)).exp() * finite).sum(-1)
    # A forbidden token can only stand at padding, where -inf would poison the gradient.
    return logprobs.masked_fill(~batch.response_mask, 0.0), spread


def _call(model: Any, batch: Batch, *, keep: int, output_hidden_states: bool) -> Any:
    return model(
        input_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=keep,
        output_hidden_states=output_hidden_states,
    )
