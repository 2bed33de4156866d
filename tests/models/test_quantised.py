"""Frozen weights in 4 bits or in bfloat16: what is computed and learned over them, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.models import quantised
from latentpad.models.critic import critic_trunk
from latentpad.models.policy import Policy, load_policy, trained_policy
from latentpad.models.quiet import quiet_libraries
from latentpad.preflight import refuse_missing_packages
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.recipe.schema import LoraSection
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

SIZES = tiny.SIZES.model_copy(update={"hidden_size": 64, "intermediate_size": 128})
LORA = LoraSection(rank=2, alpha=4)
IDS = torch.tensor([[4, 5, 6, 7, 8, 9], [9, 3, 3, 4, 12, 5]])
KINDS: list[dict[str, str]] = [
    {"quantisation": "nf4"},
    {"quantisation": "nf4", "precision": "bf16"},
    {"precision": "bf16"},
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny.policy(sizes=SIZES).save(tmp_path / "base")
    return tmp_path / "base"


def nf4(path: Path, **changes: Any) -> Policy:
    return load_policy(path, **{"lora": LORA, "quantisation": "nf4", **changes})


def touch(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return policy


@torch.no_grad()
def logits(policy: Policy) -> torch.Tensor:
    policy.model.eval()
    return policy.model(input_ids=IDS).logits


def gradients(policy: Policy) -> dict[str, torch.Tensor]:
    policy.model.train()
    out = policy.model(input_ids=IDS).logits.float().log_softmax(-1)
    out.gather(-1, IDS.roll(-1, 1).unsqueeze(-1)).mean().backward()
    return tiny.gradients(policy)


def dequantised(weight: torch.nn.Parameter) -> torch.Tensor:
    """Worked out from codes, scales and their scales, two codes to a byte, the first in the upper half."""
    state = weight.quant_state
    codes = torch.stack([weight.data.flatten() >> 4, weight.data.flatten() & 15], 1).flatten().long()
    nested = state.state2
    scales = nested.code[state.absmax.long()] * nested.absmax.repeat_interleave(256)[: len(state.absmax)]
    return (state.code[codes].view(-1, 64) * (scales + state.offset).unsqueeze(1)).view(state.shape)


def over_dequantised(base: Path, policy: Policy) -> Policy:
    """The same policy over float32 weights that are what the 4 bits stand for."""
    twin = load_policy(base, lora=LORA)
    weights = dict(twin.model.named_parameters())
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            weights[name].copy_(dequantised(parameter) if hasattr(parameter, "quant_state") else parameter)
    return twin


def test_linear_layers_are_held_in_4_bits_and_nothing_else(base: Path) -> None:
    plain = dict(load_policy(base, lora=LORA).model.named_parameters())
    kinds = set()
    for name, parameter in nf4(base).model.named_parameters():
        if hasattr(parameter, "quant_state"):
            kinds.add(name.split(".")[-3])
            assert parameter.numel() * 2 == plain[name].numel()
            error = (dequantised(parameter) - plain[name]).norm() / plain[name].norm()
            assert 0.05 < error < 0.12  # of normal weights NF4 loses 9%
        else:
            assert torch.equal(parameter, plain[name]), name
            assert parameter.dtype == torch.float32
    assert kinds == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}


def test_the_adapter_is_drawn_as_over_full_precision_and_only_it_is_trained(base: Path) -> None:
    policy = nf4(base, seed=3)
    assert policy.trainable_hash() == load_policy(base, lora=LORA, seed=3).trainable_hash()
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in policy.trainable().items())
    assert policy.quantised
    assert not load_policy(base, lora=LORA).quantised


def test_outputs_and_gradients_are_those_of_the_weights_that_the_4_bits_stand_for(base: Path) -> None:
    policy = touch(nf4(base))
    twin = over_dequantised(base, policy)
    torch.testing.assert_close(logits(policy), logits(twin), rtol=1e-4, atol=1e-4)
    found, wanted = gradients(policy), gradients(twin)
    assert found.keys() == wanted.keys() == policy.trainable().keys()
    for name, gradient in wanted.items():
        assert gradient.norm() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_sampling_changes_neither_the_weights_nor_what_is_learned_after_it(base: Path, kind: dict[str, str]) -> None:
    """On a CPU with AVX512-BF16 bitsandbytes repacks the weights when it evaluates, and drops gradients ever after."""
    policy = touch(load_policy(base, lora=LORA, **kind))
    before, learned = policy.base_hash(), gradients(policy)
    tiny.sampled(policy, 4)
    after = gradients(policy)
    assert policy.base_hash() == before
    assert all(torch.equal(after[name], gradient) for name, gradient in learned.items())


def test_the_sampler_and_the_learner_compute_the_same(base: Path) -> None:
    policy = touch(nf4(base))
    sampled = logits(policy)
    policy.model.train()
    torch.testing.assert_close(policy.model(input_ids=IDS).logits.detach(), sampled, rtol=1e-6, atol=1e-6)


def test_rows_that_do_not_divide_into_blocks_are_refused(tmp_path: Path) -> None:
    tiny.policy().save(tmp_path)
    with pytest.raises(RecipeError, match=r"q_proj has rows of 16 weights; nf4 needs a multiple of 64") as refusal:
        nf4(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("part", ["codes", "absmax", "offset", "nested absmax", "nested code"])
def test_the_hash_of_the_base_sees_the_last_bit_of_every_part(base: Path, part: str) -> None:
    policy = nf4(base)
    before, trained = policy.base_hash(), policy.trainable_hash()
    assert nf4(base).base_hash() == before
    weight = policy.model.base_model.model.model.layers[1].mlp.down_proj.weight
    state = weight.quant_state
    tensor = {
        "codes": weight.data,
        "absmax": state.absmax,
        "offset": state.offset,
        "nested absmax": state.state2.absmax,
        "nested code": state.state2.code,
    }[part]
    tensor.flatten().view(torch.uint8)[0] ^= 1
    assert policy.base_hash() != before
    assert policy.trainable_hash() == trained


def test_an_adapter_is_merged_in_full_precision_before_it_is_quantised(tmp_path: Path, base: Path) -> None:
    touch(load_policy(base, lora=LORA)).save(tmp_path / "first")
    load_policy(tmp_path / "first").save(tmp_path / "merged")
    second = nf4(tmp_path / "first")
    assert second.base_hash() == nf4(tmp_path / "merged").base_hash() != nf4(base).base_hash()
    second.save(tmp_path / "second")
    config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "first")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on_an_adapter", [False, True])
def test_a_run_is_evaluated_over_the_weights_that_it_was_trained_over(
    tmp_path: Path, base: Path, kind: dict[str, str], on_an_adapter: bool
) -> None:
    start = base
    if on_an_adapter:
        start = tmp_path / "first"
        touch(load_policy(base, lora=LORA)).save(start)
    policy = touch(load_policy(start, lora=LORA, **kind))
    policy.save(tmp_path / "trained")
    assert not (tmp_path / "trained" / "model.safetensors").exists()
    opened = trained_policy(tmp_path / "trained", **kind)
    assert opened.stop_ids == policy.stop_ids
    assert torch.equal(logits(opened), logits(policy))
    merged = load_policy(tmp_path / "trained")
    assert (logits(merged) - logits(policy).float()).abs().max() > 1e-3


def test_a_run_over_full_precision_is_evaluated_merged(tmp_path: Path, base: Path) -> None:
    touch(load_policy(base, lora=LORA)).save(tmp_path / "trained")
    for opened in (trained_policy(tmp_path / "trained"), trained_policy(tmp_path / "trained", precision="fp32")):
        assert not opened.uses_lora
        assert opened.trainable_hash() == load_policy(tmp_path / "trained").trainable_hash()


def test_all_weights_are_trained_in_float32_whatever_the_precision(base: Path) -> None:
    made = load_policy(base, precision="bf16")
    assert made.trainable_hash() == load_policy(base).trainable_hash()
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("quantisation", [None, "nf4"])
def test_in_bf16_frozen_weights_are_rounded_and_the_adapter_and_positions_are_not(
    base: Path, quantisation: str | None
) -> None:
    policy = load_policy(base, lora=LORA, quantisation=quantisation, precision="bf16")
    plain = dict(load_policy(base, lora=LORA).model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
        elif not hasattr(parameter, "quant_state"):
            assert torch.equal(parameter, plain[name].bfloat16()), name
    assert {buffer.dtype for buffer in policy.model.buffers()} == {torch.float32}
    assert all(gradient.norm() > 0 for gradient in gradients(touch(policy)).values())


def test_a_critic_over_4_bits_trains_an_adapter_of_its_own_and_shares_nothing(base: Path) -> None:
    policy = nf4(base)
    trunk = critic_trunk(policy, lora=LORA, seed=0)
    hidden = [m(input_ids=IDS, output_hidden_states=True).hidden_states[-1] for m in (trunk, policy.model)]
    assert torch.equal(*hidden)
    trained = {name: p for name, p in trunk.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)

    def places(model: torch.nn.Module) -> set[int]:
        states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
        scales = [tensor for state in states for tensor in (state.absmax, state.offset, state.state2.absmax)]
        return {tensor.data_ptr() for tensor in [*model.parameters(), *scales]}

    assert not places(trunk) & places(policy.model)
    before = policy.base_hash()
    hidden[0].sum().backward()
    assert sum(p.grad is not None for p in trained.values()) > len(trained) / 2
    assert all(p.grad is None for p in policy.model.parameters())
    assert policy.base_hash() == before


def test_a_critic_that_would_train_4_bits_is_refused(base: Path) -> None:
    with pytest.raises(RecipeError, match=r"algorithm\.critic\.lora_rank: .* cannot be trained") as refusal:
        critic_trunk(nf4(base), lora=None, seed=0)
    assert "\n" not in str(refusal.value)


def test_a_critic_of_all_weights_is_trained_in_float32_over_a_rounded_policy(base: Path) -> None:
    trunk = critic_trunk(load_policy(base, lora=LORA, precision="bf16"), lora=None, seed=0)
    assert {p.dtype for p in trunk.parameters()} == {torch.float32}


def test_without_bitsandbytes_one_line_says_what_to_install(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> object:
        return None if name == "bitsandbytes" else find_spec(name)

    monkeypatch.setattr(quantised, "find_spec", found)
    with pytest.raises(MachineError, match=r"model\.quantisation needs bitsandbytes: pip install") as refusal:
        nf4(base)
    assert "\n" not in str(refusal.value)
    monkeypatch.setattr("latentpad.preflight.find_spec", found)
    refuse_missing_packages(tiny.recipe(training={"optimizer": "adamw"}))
    for changes in (
        {"model": {"path": str(base), "lora": LORA.model_dump(), "quantisation": "nf4"}},
        {"training": {"optimizer": "lion_8bit"}},
    ):
        with pytest.raises(MachineError, match=r"'(nf4|lion_8bit)' needs bitsandbytes: pip install"):
            refuse_missing_packages(tiny.recipe(**changes))


def test_loading_says_nothing(base: Path) -> None:
    """In a process of its own: bitsandbytes speaks when it is first imported."""
    script = (
        "import sys; from pathlib import Path; from tests.models.test_quantised import nf4; nf4(Path(sys.argv[1]));"
        "assert 'bitsandbytes' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, str(base)], capture_output=True, text=True, check=True)
    assert "gemm_4bit" not in done.stdout + done.stderr
    assert "Loading weights" not in done.stdout + done.stderr


def test_quiet_is_over_when_the_block_is() -> None:
    import logging

    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    with quiet_libraries():
        assert logger.level == logging.ERROR
    assert logger.level == before
