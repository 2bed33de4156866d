"""Logprobs computed a chunk at a time are those computed from whole logits, gradients too, and hold only a chunk."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from latentpad.models.policy import with_lora
from latentpad.recipe.schema import LoraSection
from latentpad.training import chunked_head
from latentpad.training.chunked_head import TokenLogprobs, head_to_chunk
from latentpad.training.collate import Rows
from latentpad.training.forward import Forward, forward
from latentpad.types import FinishReason, Problem, Prompt, Rollout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from latentpad.types import Batch

VOCABULARY = 5000
CHUNKED = ["llama", "qwen2", "qwen3", "smollm3", "gpt_neox", "phi3", "phi", "gemma3_text"]  # phi's head has a bias
WHOLE = ["gemma2", "cohere", "granite"]  # these change logits after the head
LENGTHS = [(3, 9), (1, 4), (5, 1), (2, 7)]  # of prompts and responses
TOKENS = 21


@contextmanager
def chunks_of(rows: int, vocabulary: int = VOCABULARY) -> Iterator[None]:
    with patch.object(chunked_head, "LOGIT_BYTES", 4 * vocabulary * rows):
        yield


def model_of(kind: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    more = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**sizes, **tokens, **more, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # or all distributions are all but uniform
        model.get_output_embeddings().weight.mul_(30)
    return model.to(dtype).train()


def batch_of(seed: int = 0) -> Batch:
    """Of response tokens between 8 and 4990; padding is 0."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(8, VOCABULARY - 10, (count,), generator=generator).tolist())

    problem = Problem("", "", "train", "", "", "")
    rollouts = [
        Rollout(Prompt(problem, "", some(p)), some(t), (-1.0,) * t, FinishReason.STOP, 0, "", 0) for p, t in LENGTHS
    ]
    return Rows(rollouts, [0.0] * 4, [0.0] * 4).collate()


def outcome(model: Any, batch: Batch, **options: Any) -> tuple[Forward, dict[str, torch.Tensor]]:
    """What `forward` gives, and the gradients of a random sum of it."""
    model.zero_grad(set_to_none=True)
    out = forward(model, batch, **options)
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=out.logprobs.dtype)
    for values in (out.logprobs, out.entropy, None if out.hidden is None else out.hidden[:, 1:].mean(-1)):
        if values is not None:
            total = total + (values * torch.randn(values.shape, generator=generator))[batch.response_mask].sum()
    total.backward()
    return out, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Any, batch: Batch, tolerance: float, **options: Any) -> None:
    whole, of_whole = outcome(model, batch, **options)
    with chunks_of(4):
        chunked, of_chunks = outcome(model, batch, **options)
    mask = batch.response_mask
    close: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(chunked.logprobs[mask], whole.logprobs[mask], **close)
    for ours, theirs in ((chunked.entropy, whole.entropy), (chunked.hidden, whole.hidden)):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours[:, : mask.shape[1]][mask], theirs[:, : mask.shape[1]][mask], **close)
    assert len(of_whole) >= 8
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in of_whole.values())
    scale = max(float(gradient.norm()) for gradient in of_whole.values())
    torch.testing.assert_close(of_chunks, of_whole, rtol=0, atol=tolerance * scale)


# The same numbers


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "forbidden_ids": (0, 7, 4999), "entropy": True}], ids=str)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("kind", CHUNKED + WHOLE)
def test_chunks_give_what_whole_logits_give(kind: str, lora: bool, options: dict[str, Any]) -> None:
    # Gemma 2's own mask of padding comes to nan in float64.
    dtype = torch.float32 if kind == "gemma2" else torch.float64
    model = model_of(kind, dtype)
    if lora:
        model = with_lora(model, LoraSection(rank=2, alpha=4), 0).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
    with chunks_of(4):
        assert (head_to_chunk(model, tokens=TOKENS) is None) == (kind in WHOLE)
    assert_same(model, batch_of(), 1e-10, **options)


def test_chunks_give_the_same_in_single_precision() -> None:
    options: dict[str, Any] = {"temperature": 1.3, "forbidden_ids": (0, 7), "entropy": True, "hidden": True}
    assert_same(model_of("llama", torch.float32), batch_of(), 1e-5, **options)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_is_tied_to_the_embeddings_gets_both_gradients(kind: str, tied: bool) -> None:
    model = model_of(kind, tie_word_embeddings=tied)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert_same(model, batch_of(), 1e-10, entropy=True, hidden=True)


def test_without_gradients_the_numbers_are_the_same() -> None:
    model, batch = model_of("llama"), batch_of()
    with torch.no_grad():
        whole = forward(model, batch, entropy=True)
        with chunks_of(4):
            chunked = forward(model, batch, entropy=True)
    torch.testing.assert_close(chunked.logprobs, whole.logprobs, rtol=1e-10, atol=1e-10)
    assert not chunked.logprobs.requires_grad


@given(st.integers(1, 9), st.integers(0, 7), st.booleans(), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_size_of_a_chunk_does_not_matter(
    rows: int, tokens: int, entropy: bool, temperature: float, seed: int
) -> None:
    torch.manual_seed(seed)
    inputs = [torch.randn(tokens, 3).double(), torch.randn(6, 3).double(), torch.randn(6).double()]
    ids, forbidden = torch.randint(0, 5, (tokens,)), torch.tensor([5])
    found = []
    for size in (rows, 100):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        with chunks_of(size, 6):
            out = TokenLogprobs.apply(*leaves, ids, forbidden, temperature, entropy, torch.float64)
            (out * torch.arange(1.0, 3.0)).sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("forbidden", [[], [2, 6]])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_finite_differences(bias: bool, forbidden: list[int], entropy: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 3).double().requires_grad_(), torch.randn(7, 3).double().requires_grad_()
    offset = torch.randn(7).double().requires_grad_() if bias else None
    constants = (torch.tensor([0, 1, 3, 4, 5]), torch.tensor(forbidden, dtype=torch.int64), 1.7, entropy, torch.float64)
    with chunks_of(2, 7):
        assert torch.autograd.gradcheck(TokenLogprobs.apply, (hidden, weight, offset, *constants))


def test_numbers_worked_out_by_hand() -> None:
    """Logits 0, log 3 and one that is forbidden: shares 1/4 and 3/4; at temperature 1/2 they are 1/10 and 9/10."""
    weight = torch.tensor([0.0, 3.0, 1e4]).log().nan_to_num(neginf=0.0).unsqueeze(1).double()
    hidden, ids, forbidden = torch.ones(2, 1).double(), torch.tensor([0, 1]), torch.tensor([2])
    for temperature, share in ((1.0, 0.25), (0.5, 0.1)):
        shares = torch.tensor([share, 1 - share]).double()
        expected = torch.stack([shares.log(), -(shares * shares.log()).sum().expand(2)], dim=1)
        found = TokenLogprobs.apply(hidden, weight, None, ids, forbidden, temperature, True, torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


# Lower precision


@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
def test_in_bfloat16_chunks_err_no_more_than_whole_logits(kind: str) -> None:
    batch, options = batch_of(), {"temperature": 0.7, "entropy": True}
    exact, of_exact = outcome(model_of("llama"), batch, **options)
    model = model_of("llama", torch.bfloat16 if kind == "bfloat16" else torch.float32)

    def errors() -> list[float]:
        out, gradients = outcome(model, batch, **options)
        assert out.entropy is not None
        assert exact.entropy is not None
        mask = batch.response_mask
        pairs = [(out.logprobs[mask], exact.logprobs[mask]), (out.entropy[mask], exact.entropy[mask])]
        pairs += [(gradients[name], of_exact[name]) for name in ("lm_head.weight", "model.layers.0.mlp.up_proj.weight")]
        return [float((a.detach().double() - b.detach()).norm() / b.detach().norm()) for a, b in pairs]

    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        whole = errors()
        with chunks_of(2):
            chunked = errors()
            assert forward(model, batch).logprobs.dtype == torch.float32
        assert forward(model, batch).logprobs.dtype == torch.float32  # as what the sampler gives
    assert all(ours < 1.2 * theirs for ours, theirs in zip(chunked, whole, strict=True)), (chunked, whole)
    assert max(chunked) < 0.03


# What is held, and how the head is called


class Widest(TorchDispatchMode):
    """The most numbers of any tensor as wide as the vocabulary that is not a weight's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.ndim and made.shape[-1] == VOCABULARY:
            self.rows = max(self.rows, made.numel() // VOCABULARY)
        return made


def test_neither_pass_holds_more_logits_than_a_chunk() -> None:
    model, batch = model_of("llama", hidden_size=2, head_dim=2), batch_of()
    with Widest() as widest:
        outcome(model, batch, entropy=True)
    assert widest.rows == len(LENGTHS) * 10
    with chunks_of(3), Widest() as widest:
        outcome(model, batch, entropy=True)
    assert widest.rows == 3


def test_the_head_is_called_once_whatever_the_number_of_chunks() -> None:
    model, batch = model_of("llama"), batch_of()
    head = model.get_output_embeddings()
    shapes: list[torch.Size] = []
    head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    for rows in (1, 5):
        with chunks_of(rows):
            outcome(model, batch)
    assert shapes == [torch.Size([4, 9, 2])] * 2
    assert "forward" not in vars(head)


def test_a_hook_may_wrap_what_the_head_gives() -> None:
    """As those of ZeRO-3 do, on both sides of the call."""
    model, batch = model_of("llama"), batch_of()
    _, expected = outcome(model, batch)
    head = model.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, inputs: tuple(x.view_as(x) for x in inputs))
    head.register_forward_hook(lambda module, inputs, output: output.view_as(output))
    with chunks_of(4):
        _, found = outcome(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class Engine(torch.nn.Module):
    """Holds a model as DeepSpeed's engine does."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def test_a_model_inside_an_engine_is_found() -> None:
    model = Engine(model_of("llama"))
    with chunks_of(4):
        assert head_to_chunk(model, tokens=TOKENS) is model.module.lm_head
    assert_same(model, batch_of(), 1e-10)


# Where it is left alone


def test_logits_within_the_budget_are_held_whole() -> None:
    model = model_of("llama")
    with chunks_of(TOKENS):
        assert head_to_chunk(model, tokens=TOKENS) is None
        assert head_to_chunk(model, tokens=TOKENS + 1) is model.lm_head
    assert head_to_chunk(model, tokens=64 * 2**20 // (4 * VOCABULARY)) is None
    assert head_to_chunk(model, tokens=64 * 2**20 // (4 * VOCABULARY) + 1) is model.lm_head


def test_a_head_that_is_not_a_plain_linear_layer_is_left_alone() -> None:
    from peft import LoraConfig, get_peft_model

    patched, padded = model_of("llama"), model_of("llama")
    patched.lm_head.forward = patched.lm_head.forward
    padded.config.vocab_size -= 8
    adapted = get_peft_model(model_of("llama"), LoraConfig(target_modules=["lm_head"]))
    with chunks_of(1):
        assert [head_to_chunk(m, tokens=TOKENS) for m in (patched, padded, adapted)] == [None] * 3


def test_a_model_that_changes_its_logits_unseen_is_refused() -> None:
    model = model_of("llama")
    inner = model.forward

    def doubled(**inputs: Any) -> Any:
        out = inner(**inputs)
        out.logits = 2 * out.logits
        return out

    model.forward = doubled
    with chunks_of(4), pytest.raises(RuntimeError, match="changes the logits that its head gives"):
        forward(model, batch_of())
    assert "forward" not in vars(model.lm_head)


def test_the_head_is_put_back_where_the_model_fails() -> None:
    model = model_of("llama")
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with chunks_of(4), pytest.raises(ZeroDivisionError):
        forward(model, batch_of())
    assert "forward" not in vars(model.lm_head)
