"""An exported folder is loaded by plain transformers or peft, and says what the run's policy says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.cli import main
from latentpad.experiments.export import export_adapter, export_model
from latentpad.experiments.run import run_recipe
from latentpad.models.policy import load_policy
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import dump
from latentpad.training.checkpoint import STATE, write_checkpoint
from tests import tiny

if TYPE_CHECKING:
    from latentpad.models.policy import Policy

PROBE = torch.tensor([[4, 5, 6, 7, 8, 9], [9, 4, 4, 8, 7, 5]])
LORA = tiny.LORA.model_dump()
EVERY_STEP = {"steps": 2, "checkpoint_every": 1}


def logprobs(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=PROBE).logits.log_softmax(-1)
    return found


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def run_of(folder: Path, policies: dict[int, Policy], **changes: Any) -> Path:
    """A run folder with these checkpoints, as a run would leave it."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(tiny.recipe("rl", **changes)))
    for step, policy in policies.items():

        def fill(aside: Path, policy: Policy = policy) -> None:
            policy.save(aside)
            torch.save({"weights": 0}, aside / STATE)

        write_checkpoint(folder / "checkpoints", step, fill, key="k", keep=9)
    return folder


def moved(policy: Policy, by: float) -> Policy:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in policy.trainable().values():
            weight.add_(torch.randn(weight.shape, generator=generator) * by)
    return policy


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pretrained run, and an RL run with LoRA from it: real ones."""
    home = tmp_path_factory.mktemp("trained")
    run_recipe(tiny.recipe("pretrain", training=EVERY_STEP), home / "base")
    model = {"path": str(home / "base" / "checkpoints" / "2"), "lora": LORA}
    short = {"rollout": {"max_new_tokens": 24, "chunk_size": 16}, "training": {**EVERY_STEP, "learning_rate": 0.05}}
    recipe = tiny.recipe("rl", model=model, rl={"entropy_coef": 0.1}, **short)  # moves it, whatever the rewards are
    run_recipe(recipe, home / "rl")
    return home / "base", home / "rl"


def test_a_full_model_is_the_same_to_the_bit(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = trained
    before = files(run)
    exported = export_model(run, tmp_path / "deep" / "out")
    policy = load_policy(run / "checkpoints" / "2")
    assert torch.equal(logprobs(plain(tmp_path / "deep" / "out")), logprobs(policy.model))
    assert (exported.step, exported.kind, exported.dtype) == (2, "model", "float32")
    assert exported.parameters == sum(p.numel() for p in plain(exported.folder).parameters())
    assert files(run) == before
    assert {STATE, "manifest.json"}.isdisjoint(files(exported.folder))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_adapter_is_merged_and_says_what_the_run_says(trained: tuple[Path, Path], tmp_path: Path) -> None:
    base, run = trained
    before = files(base), files(run)
    exported = export_model(run, tmp_path / "out")
    checkpoint = run / "checkpoints" / "2"
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(plain(base / "checkpoints" / "2"), checkpoint)
    found = logprobs(plain(exported.folder))
    assert (found - logprobs(wrapped)).abs().max() < 1e-5
    assert (found - logprobs(plain(base / "checkpoints" / "2"))).abs().max() > 1e-3
    assert not (exported.folder / "adapter_config.json").exists()
    assert (files(base), files(run)) == before


def test_the_text_of_an_export_names_no_place_on_this_machine(trained: tuple[Path, Path], tmp_path: Path) -> None:
    exported = export_model(trained[1], tmp_path / "out").folder
    texts = [content for name, content in files(exported).items() if not name.endswith(".safetensors")]
    assert len(texts) >= 3
    assert not any(str(trained[0].parent).encode() in text for text in texts)


def test_adapters_on_adapters_are_merged_in_their_order(tmp_path: Path) -> None:
    moved(tiny.lora_policy(tmp_path / "base"), 0.1).save(tmp_path / "first")
    second = moved(load_policy(tmp_path / "first", lora=tiny.LORA, seed=1), 0.1)
    run = run_of(tmp_path / "run", {3: second}, model={"path": str(tmp_path / "first"), "lora": LORA})
    found = logprobs(plain(export_model(run, tmp_path / "out").folder))
    assert (found - logprobs(second.model)).abs().max() < 1e-5
    assert (found - logprobs(load_policy(tmp_path / "first").model)).abs().max() > 1e-2


def test_an_adapter_alone_goes_on_its_base_through_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    policy = tiny.lora_policy(tmp_path / "base", touched=True)
    run = run_of(tmp_path / "run", {5: policy}, model={"path": str(tmp_path / "base"), "lora": LORA})
    exported = export_adapter(run, tmp_path / "out")
    theirs = PeftModel.from_pretrained(plain(tmp_path / "base"), exported.folder)
    assert torch.equal(logprobs(theirs), logprobs(policy.model))
    assert exported.parameters == sum(p.numel() for p in policy.trainable().values())
    assert (exported.kind, exported.dtype, exported.base) == ("adapter", "float32", str(tmp_path / "base"))
    names = set(files(exported.folder))
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert names.isdisjoint({STATE, "manifest.json", "model.safetensors"})


def test_the_tokenizer_and_every_stop_token_go_along(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    policy = tiny.lora_policy(tmp_path / "base", touched=True)
    config = tmp_path / "base" / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [7]}))
    run = run_of(tmp_path / "run", {1: policy}, model={"path": str(tmp_path / "base"), "lora": LORA})
    out = export_model(run, tmp_path / "out").folder
    assert load_policy(out).stop_ids == load_policy(run / "checkpoints" / "1").stop_ids == (7, 1)
    assert GenerationConfig.from_pretrained(out).eos_token_id == [7, 1]
    text = "12+34=<scratch>2+4,6C:0</scratch>46"
    assert AutoTokenizer.from_pretrained(out)(text).input_ids == policy.tokenizer(text).input_ids


def test_a_step_is_named_and_the_newest_is_taken_otherwise(tmp_path: Path) -> None:
    policies = {2: tiny.policy(2), 10: tiny.policy(10)}
    run = run_of(tmp_path / "run", policies)
    for step, name in [(None, 10), (2, 2), (10, 10)]:
        exported = export_model(run, tmp_path / f"out-{step}", step=step)
        assert exported.step == name
        assert torch.equal(logprobs(plain(exported.folder)), logprobs(policies[name].model))
    with pytest.raises(RecipeError, match=r"--step 3: .* keeps no checkpoint of that step; it has 2, 10$"):
        export_model(run, tmp_path / "none", step=3)


def test_nothing_is_overwritten_and_an_empty_folder_is_filled(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {1: tiny.policy()})
    full, file, empty, link = (tmp_path / name for name in ("full", "file", "empty", "link"))
    full.mkdir()
    (full / "mine").write_text("kept")
    file.write_text("kept")
    empty.mkdir()
    link.symlink_to(empty)
    for export in (export_model, export_adapter):
        with pytest.raises(RecipeError, match="is not empty; give a new folder"):
            export(run, full)
        for bad in (file, link):
            with pytest.raises(RecipeError, match="is a file or a link; expected a new folder"):
                export(run, bad)
        with pytest.raises(RecipeError, match="lies among the run's own checkpoints"):
            export(run, run / "checkpoints" / "7")
    assert (files(full), file.read_text()) == ({"mine": b"kept"}, "kept")
    assert (export_model(run, empty).folder / "model.safetensors").is_file()


def test_what_fails_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", {1: tiny.policy()})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latentpad.experiments.export._name_stop_tokens", fail)
    with pytest.raises(OSError, match="No space left"):
        export_model(run, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_came_up_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "run", {1: tiny.policy()})

    def meanwhile(*_: object) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("kept")

    monkeypatch.setattr("latentpad.experiments.export._name_stop_tokens", meanwhile)
    with pytest.raises(RecipeError, match="cannot be written"):
        export_model(run, tmp_path / "out")
    assert files(tmp_path / "out") == {"theirs": b"kept"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "run"]


def test_a_torn_checkpoint_and_a_base_that_is_gone_are_one_line(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path / "base", touched=True)
    run = run_of(tmp_path / "run", {1: policy}, model={"path": str(tmp_path / "base"), "lora": LORA})
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(RecipeError, match=r"is not there .*bring the base back, or export the adapter") as refusal:
        export_model(run, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert export_adapter(run, tmp_path / "adapter").parameters > 0
    (run / "checkpoints" / "1" / "adapter_config.json").write_text("{}")
    for step in (None, 1):
        with pytest.raises(RecipeError, match="is not what was written"):
            export_adapter(run, tmp_path / "out", step=step)
    assert not (tmp_path / "out").exists()


def test_a_run_of_all_weights_has_no_adapter(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {1: tiny.policy()})
    with pytest.raises(RecipeError, match="holds all weights, no adapter: leave out --adapter"):
        export_adapter(run, tmp_path / "out")


def test_the_verb_says_parameters_dtype_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tiny.lora_policy(tmp_path / "base", touched=True)
    run = run_of(tmp_path / "run", {4: policy}, model={"path": str(tmp_path / "base"), "lora": LORA})
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    count = sum(p.numel() for p in tiny.policy().model.parameters())
    assert capsys.readouterr().out == f"model of step 4: {count:,} parameters in float32: {tmp_path / 'out'}\n"
    assert main(["export", str(run), "--to", str(tmp_path / "out2"), "--adapter", "--step", "4"]) == 0
    count = sum(p.numel() for p in policy.trainable().values())
    assert capsys.readouterr().out == (
        f"adapter of step 4: {count:,} parameters in float32, on the base {tmp_path / 'base'}: {tmp_path / 'out2'}\n"
    )
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 2
