"""Logprobs and entropies straight from hidden states, a chunk at a time: `[B, T, vocabulary]` is never held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from latentpad.types import Batch

# Of float32 logits. Up to here they are held whole; beyond it a chunk at a time, this many bytes each.
LOGIT_BYTES = 64 * 2**20

# Config keys of the models of transformers that change logits after the head, where the key is there and not None.
_CHANGES_LOGITS = (
    "final_logit_softcapping",  # Gemma
    "logit_scale",  # Cohere
    "logits_scaling",  # Granite
    "logits_soft_cap",  # RecurrentGemma
    "output_logit_soft_cap",  # xLSTM
    "lm_head_multiplier",  # Falcon-H1
    "logits_mup_width_multiplier",  # Inkling
    "output_multiplier",  # Muse
    "softcap",  # Jev
)


def head_to_chunk(model: Any, *, tokens: int) -> torch.nn.Linear | None:
    """The model's output head, if logits of this many tokens are too large to hold and chunks of them would do.

    They would where the head is an ordinary linear layer (tied or not) whose output is the logits as they are.

    Args:
        model: a model of transformers, peft's around one, or a DeepSpeed engine around either.
        tokens: B * T of the batch, padding included.
    """
    model = getattr(model, "module", model)
    head = model.get_output_embeddings()
    # A subclass (quantised, with LoRA) or a patched layer (offloaded) computes something else, or elsewhere.
    if type(head) is not torch.nn.Linear or "forward" in vars(head):
        return None
    if 4 * tokens * head.out_features <= LOGIT_BYTES:
        return None
    config = model.config.get_text_config()
    changed = any(getattr(config, key, None) is not None for key in _CHANGES_LOGITS)
    # With more outputs than the vocabulary has tokens, the model drops the rest.
    return None if changed or head.out_features != config.vocab_size else head


def call_in_chunks(
    call: Callable[[], Any],
    head: torch.nn.Linear,
    batch: Batch,
    *,
    temperature: float,
    forbidden_ids: tuple[int, ...],
    entropy: bool,
) -> Any:
    """What `call` returns, its `logits` being [B, T, 2]: logprob and entropy of the response tokens, 0 outside them.

    The head is called once, as ever, and reads its own weights: hooks that gather them before the call and release
    them after it (DeepSpeed's ZeRO-3) need no more, and chunks may differ in number from one process to another.

    Args:
        call: runs the model on the batch with `logits_to_keep` of T + 1.
        head: of that model, from `head_to_chunk`.
        batch: what `call` runs on.
        temperature: that responses were sampled at.
        forbidden_ids: tokens that could not be sampled.
        entropy: whether to compute it; else it is 0.

    Raises:
        RuntimeError: the model changes what its head gives, in a way unknown to `head_to_chunk`.
    """
    mask = batch.response_mask
    length = mask.shape[1]
    ids = batch.token_ids[:, -length:][mask]
    forbidden = torch.tensor(forbidden_ids, dtype=torch.int64, device=ids.device)
    made: list[Tensor] = []

    def read(hidden: Tensor) -> Tensor:
        rows = hidden[:, -length - 1 : -1][mask]
        found: Tensor = TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            rows, head.weight, head.bias, ids, forbidden, temperature, entropy, _compute_dtype(hidden)
        )
        made.append(found.new_zeros(*mask.shape, 2).index_put((mask,), found))
        return made[-1]

    head.forward = read  # type: ignore[assignment, method-assign]
    try:
        out = call()
    finally:
        del head.forward
    # Hooks may wrap the tensor anew, but a model that computes on it fills another.
    if [tensor.data_ptr() for tensor in made] != [out.logits.data_ptr()]:
        raise RuntimeError("this model changes the logits that its head gives: add its config's key to chunked_head.py")
    return out


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    """What a linear layer would compute in here: under autocast not that of its input."""
    kind = hidden.device.type
    autocast = torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if autocast else hidden.dtype


class TokenLogprobs(torch.autograd.Function):
    """Logprob and entropy [N, 2] in nats, of N tokens from the N hidden states [N, H] that they are predicted from.

    With logits z = (W h + b) / temperature, p = softmax(z), entropy E = -sum p log p, gradients g and e of the
    logprob of token y and of the entropy: dz_j = g * [j = y] - p_j * (g + e * (log p_j + E)). Logits are computed
    again for that, so either pass holds those of one chunk. Products are in the given dtype, all else in float32 at
    least; the result too.
    """

    @staticmethod
    def forward(  # each argument that may need a gradient has to be one of its own
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        forbidden: Tensor,
        temperature: float,
        entropy: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        """Called through `apply`: `ids` [N] and `forbidden` [any] are tokens, `dtype` that of the products."""
        precise = torch.promote_types(dtype, torch.float32)
        found = hidden.new_zeros(len(ids), 2, dtype=precise)
        totals = hidden.new_zeros(len(ids), 1, dtype=precise)
        with torch.autocast(hidden.device.type, enabled=False):
            head = (weight.to(dtype), None if bias is None else bias.to(dtype))
            for part, _, logits in _chunks(hidden, *head, forbidden, temperature):
                totals[part] = logits.logsumexp(-1, keepdim=True)
                logs = logits.sub_(totals[part])
                found[part, 0] = logs.gather(-1, ids[part].unsqueeze(-1)).squeeze(-1)
                if entropy:
                    shares = logs.exp()
                    # A forbidden token has probability 0 and adds nothing; 0 * -inf would add nan.
                    found[part, 1] = -shares.mul_(logs.index_fill_(1, forbidden, 0.0)).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, ids, forbidden, totals, found[:, 1:].clone())
        ctx.options = (temperature, entropy, dtype)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the hidden states, the weight and the bias, as far as they are asked for."""
        hidden, weight, bias, ids, forbidden, totals, entropies = ctx.saved_tensors
        temperature, entropy, dtype = ctx.options
        needs = ctx.needs_input_grad
        of_hidden = torch.zeros_like(hidden) if needs[0] else None
        # Sums over chunks: in float32, or many small chunks would round more than one product does.
        of_weight = torch.zeros_like(weight, dtype=totals.dtype) if needs[1] else None
        of_bias = torch.zeros_like(bias, dtype=totals.dtype) if needs[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            head = (weight.to(dtype), None if bias is None else bias.to(dtype))
            for part, rows, logits in _chunks(hidden, *head, forbidden, temperature):
                logs = logits.sub_(totals[part])
                slope = _logit_gradient(logs, ids[part], gradient[part], entropies[part] if entropy else None)
                # The logit of a forbidden token is a constant; and with an entropy 0 * -inf stands here.
                slope.index_fill_(1, forbidden, 0.0).div_(temperature)
                product = slope.to(dtype)
                if of_hidden is not None:
                    of_hidden[part] = product @ head[0]
                if of_weight is not None:
                    _add_product(of_weight, product.T, rows)
                if of_bias is not None:
                    of_bias += slope.sum(0)
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        of_bias = None if of_bias is None else of_bias.to(bias.dtype)
        return of_hidden, of_weight, of_bias, None, None, None, None, None


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, forbidden: Tensor, temperature: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Slices of the N tokens with their hidden states and their logits, a tensor for the caller to overwrite."""
    size = max(1, LOGIT_BYTES // (4 * len(weight)))
    for start in range(0, len(hidden), size):
        part = slice(start, start + size)
        rows = hidden[part].to(weight.dtype)
        logits = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        yield part, rows, logits.index_fill_(1, forbidden, -torch.inf).div_(temperature)


def _logit_gradient(logs: Tensor, ids: Tensor, gradient: Tensor, entropies: Tensor | None) -> Tensor:
    """dz [n, V] from log p [n, V], of which nothing is left."""
    of_logprob, of_entropy = gradient[:, :1], gradient[:, 1:]
    shares = logs.exp()
    if entropies is None:
        slope = shares.mul_(-of_logprob)
    else:
        slope = shares.mul_(logs.add_(entropies).mul_(-of_entropy).sub_(of_logprob))
    return slope.scatter_add_(1, ids.unsqueeze(-1), of_logprob)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`, where the dtypes agree without a product beside it."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
