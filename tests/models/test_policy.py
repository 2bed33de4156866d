"""A policy is an ordinary model of transformers and peft: others load what we save, and we load what they save."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from latentpad.models.policy import Policy, load_policy, new_policy
from latentpad.models.reference import Reference
from latentpad.models.tokenizer import encode_strictly, stop_token_ids
from latentpad.recipe.errors import RecipeError
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[4, 5, 6, 7, 8, 9]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_a_saved_policy_is_an_ordinary_checkpoint(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = tiny.policy()
    policy.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(logits(model), logits(policy.model))
    text = "12+34=<scratch>2+4,6C:0</scratch>46"
    assert tokenizer(text).input_ids == policy.tokenizer.encode(text)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<eos>", "<pad>")


def test_a_saved_policy_loads_to_the_same_bits(tmp_path: Path) -> None:
    policy = tiny.policy()
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.trainable_hash() == policy.trainable_hash()
    assert loaded.stop_ids == policy.stop_ids == (1,)


def test_an_adapter_is_ordinary_and_merges_to_the_same_logits(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = tiny.lora_policy(tmp_path / "base", touched=True)
    policy.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = logits(base)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(logits(theirs), logits(policy.model))
    merged = load_policy(tmp_path / "adapter")
    assert not merged.uses_lora
    torch.testing.assert_close(logits(merged.model), logits(policy.model), rtol=1e-5, atol=1e-5)
    assert (before - logits(merged.model)).abs().max() > 0.1


def test_an_adapter_on_an_adapter_is_loaded_on_what_it_was_trained_on(tmp_path: Path) -> None:
    tiny.lora_policy(tmp_path / "base", touched=True).save(tmp_path / "first")
    second = load_policy(tmp_path / "first", lora=tiny.LORA, seed=1)
    with torch.no_grad():
        for weight in second.trainable().values():
            weight.add_(0.1)
    second.save(tmp_path / "second")
    torch.testing.assert_close(
        logits(load_policy(tmp_path / "second").model), logits(second.model), rtol=1e-5, atol=1e-5
    )


def set_stop_tokens(folder: Path, eos: int | list[int] | None) -> None:
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": eos}))


@pytest.mark.parametrize(("eos", "stops"), [([7, 1, 5], (7, 1, 5)), ([7], (7, 1)), (7, (7, 1)), (None, (1,))])
def test_every_stop_token_of_the_generation_config_is_honoured(
    tmp_path: Path, eos: int | list[int] | None, stops: tuple[int, ...]
) -> None:
    tiny.policy().save(tmp_path)
    set_stop_tokens(tmp_path, eos)
    assert load_policy(tmp_path).stop_ids == stops


def test_stop_tokens_reach_through_adapters_and_checkpoints(tmp_path: Path) -> None:
    tiny.policy().save(tmp_path / "base")
    set_stop_tokens(tmp_path / "base", [7, 1])
    load_policy(tmp_path / "base").save(tmp_path / "full")
    load_policy(tmp_path / "base", lora=tiny.LORA).save(tmp_path / "first")
    load_policy(tmp_path / "first", lora=tiny.LORA).save(tmp_path / "second")
    for name in ("full", "first", "second"):
        assert load_policy(tmp_path / name).stop_ids == (7, 1)


def test_without_a_stop_token_a_model_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny.policy().tokenizer
    tokenizer.eos_token = None
    with pytest.raises(RecipeError, match="end-of-sequence") as refusal:
        stop_token_ids(None, tokenizer)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "12+34=46", "<scratch>", "</scratch>46", "1+2=<scratch>1+2,C:0\n,3C:0\n03</scratch>3", "CC::,,\n\n"]
)
def test_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer = tiny.policy().tokenizer
    assert tokenizer.decode(encode_strictly(tokenizer, text), skip_special_tokens=False) == text


def test_a_character_is_a_token_and_so_is_a_tag() -> None:
    tokenizer = tiny.policy().tokenizer
    ids = encode_strictly(tokenizer, "12<scratch>3</scratch>")
    assert tokenizer.convert_ids_to_tokens(list(ids)) == ["1", "2", "<scratch>", "3", "</scratch>"]


def test_a_character_that_the_tokenizer_lacks_is_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match="characters it lacks: 'xé'") as refusal:
        encode_strictly(tiny.policy().tokenizer, "1x2=é")
    assert "\n" not in str(refusal.value)


def test_an_unknown_architecture_is_refused_in_one_line() -> None:
    with pytest.raises(RecipeError, match=r"model\.scratch\.architecture: .* 'lama'") as refusal:
        new_policy(tiny.SIZES.model_copy(update={"architecture": "lama"}), "01", seed=0)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.path: .* holds no config\.json") as refusal:
        load_policy(tmp_path)
    assert "\n" not in str(refusal.value)


def test_new_weights_are_drawn_from_the_seed_and_leave_the_global_generator_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = tiny.policy(0)
    drawn = torch.rand(3)
    torch.manual_seed(6)
    assert tiny.policy(0).trainable_hash() == first.trainable_hash()
    assert tiny.policy(1).trainable_hash() != first.trainable_hash()
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    first.save(tmp_path)
    adapters = [load_policy(tmp_path, lora=tiny.LORA, seed=seed).trainable_hash() for seed in (0, 0, 1)]
    assert adapters[0] == adapters[1] != adapters[2]


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("gpt2", {"attn_pdrop": 0.5, "resid_pdrop": 0.5}), ("llama", {"attention_dropout": 0.5})],
)
def test_dropout_of_a_checkpoint_is_switched_off(tmp_path: Path, architecture: str, options: dict[str, float]) -> None:
    tiny.policy(sizes=tiny.SIZES.model_copy(update={"architecture": architecture})).save(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    model = load_policy(tmp_path).model
    model.train()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
        assert torch.equal(model(input_ids=IDS).logits, logits(model))


def test_the_hash_sees_the_last_bit_and_only_what_is_trained(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path)
    before = policy.trainable_hash()
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.add_(1)
        assert policy.trainable_hash() == before
        weight = next(iter(policy.trainable().values()))
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert policy.trainable_hash() != before


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_stays_what_training_started_from(tmp_path: Path, lora: bool) -> None:
    policy: Policy = tiny.lora_policy(tmp_path) if lora else tiny.policy()
    before = logits(policy.model)
    reference = Reference.of(policy)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(0.2)
    after = logits(policy.model)
    assert (after - before).abs().max() > 0.1
    with reference.model() as model:
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(policy.model), after)


def test_scratchpad_tags_are_tokens_that_can_be_forbidden() -> None:
    policy = tiny.policy()
    assert policy.tokenizer.convert_ids_to_tokens(list(policy.scratchpad_ids)) == ["<scratch>", "</scratch>"]


def test_layers_without_positions_stay_so_on_disk_and_do_not_see_where_a_token_stands(tmp_path: Path) -> None:
    """Where no layer has positions, shifting all of them changes nothing; one rotary layer does see distances."""
    from transformers import AutoModelForCausalLM

    for bare, blind in (("all", True), ([1], False)):
        sizes = tiny.SIZES.model_copy(update={"architecture": "smollm3", "nope_layers": bare})
        made = tiny.policy(sizes=sizes)
        made.save(tmp_path / str(blind))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(blind)).eval()
        assert loaded.config.no_rope_layers == ([0, 0] if blind else [1, 0])
        stretched = torch.tensor([[0, 3, 9, 30, 31, 70]])
        with torch.no_grad():
            near, far = loaded(input_ids=IDS).logits, loaded(input_ids=IDS, position_ids=stretched).logits
        assert torch.equal(near, logits(made.model))
        assert torch.equal(near, far) is blind
