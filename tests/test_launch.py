"""What a launcher asks for is read as it is, and what would not be in effect is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentpad.launch import Launch, read_launch, refuse_several, refuse_unlike, without_local_rank
from latentpad.launch.deepspeed import check_deepspeed
from latentpad.recipe.errors import MachineError, RecipeError
from tests import tiny

RANKS = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
TORCHRUN = RANKS | {"TORCHELASTIC_RUN_ID": "none"}
ACCELERATE = TORCHRUN | {"ACCELERATE_MIXED_PRECISION": "no"}
WITH_DEEPSPEED = ACCELERATE | {"ACCELERATE_USE_DEEPSPEED": "true"}
LAUNCH = Path(__file__).parents[1] / "recipes" / "launch"


def test_without_a_launcher_there_is_one_process() -> None:
    assert read_launch({}) == Launch()


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [(TORCHRUN, "torchrun"), (RANKS | {"CROSS_RANK": "0", "LOCAL_SIZE": "2"}, "deepspeed"), (ACCELERATE, "accelerate")],
)
def test_each_launcher_is_known_by_what_it_sets(environment: dict[str, str], launcher: str) -> None:
    read = read_launch(environment, parent=[])
    assert (read.launcher, read.rank, read.local_rank, read.world_size, read.local_size) == (launcher, 1, 1, 2, 2)
    assert read.deepspeed is None
    assert read.zero_stage == 0


def test_deepspeed_by_a_file(tmp_path: Path) -> None:
    read = read_launch(TORCHRUN, LAUNCH / "zero2_offload.json")
    assert (read.zero_stage, read.offload) == (2, True)
    assert read_launch(TORCHRUN, LAUNCH / "zero3.json").offload is False


def test_deepspeed_by_accelerate() -> None:
    fields = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
    read = read_launch(WITH_DEEPSPEED | fields | {"ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}, parent=[])
    assert (read.zero_stage, read.offload) == (3, True)
    assert any("zero3_init_flag is not used" in note for note in read.notes)
    file = {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(LAUNCH / "zero1.json")}
    assert read_launch(WITH_DEEPSPEED | file, parent=[]).zero_stage == 1


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "parallelism"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "torch.compile"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision fp16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "mixed_precision fp8"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "training.micro_batch_tokens"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
    ],
)
def test_what_would_not_be_in_effect_is_refused(environment: dict[str, str], line: str) -> None:
    with pytest.raises(MachineError, match=line):
        read_launch(ACCELERATE | environment, parent=[])


PARENT = [
    "/usr/bin/python",
    "/usr/bin/accelerate",
    "launch",
    "--cpu",
    "--num_processes",
    "2",
    "-m",
    "latentpad",
    "train",
]


def test_accelerate_that_lost_its_processes_is_refused() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one, and exits with 0."""
    alone = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
    with pytest.raises(MachineError, match=r"asked for 2 processes and started 1: .*torchrun --nproc_per_node 2"):
        read_launch(alone, parent=PARENT)
    assert read_launch(alone, parent=[*PARENT[:4], *PARENT[6:]]).world_size == 1
    assert read_launch(alone, parent=["/bin/bash"]).world_size == 1


def test_two_deepspeeds_are_one_too_many() -> None:
    with pytest.raises(RecipeError, match="give one of the two"):
        read_launch(WITH_DEEPSPEED, LAUNCH / "zero2.json", parent=[])


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"zero_optimization": {"stage": 2}, "train_batch_size": 32}, "train_batch_size: the recipe decides it"),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0}, "training.max_grad_norm"),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, "training.precision"),
        ({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}}, "training.precision: bf16"),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}, "remove it"),
        ({"zero_optimization": {"stage": 2}, "scheduler": {"type": "WarmupLR"}}, "remove it"),
        ({"zero_optimization": {"stage": 2}, "zero_optimisation": {}}, "did you mean 'zero_optimization'"),
        ({"zero_optimization": {"stage": 2}, "activation_checkpointing": {}}, "unknown key"),
        ({"zero_optimization": {"stage": 0}}, "expected 1, 2 or 3"),
        ({}, "zero_optimization.stage: got None"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}, "offload_param is not supported"),
        ({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"}}}, "expected cpu or none"),
    ],
)
def test_a_deepspeed_configuration_says_only_what_will_be_in_effect(config: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        check_deepspeed(config, "ds.json")


def test_what_the_recipe_decides_may_be_auto() -> None:
    auto = dict.fromkeys(("train_batch_size", "gradient_accumulation_steps", "gradient_clipping"), "auto")
    passed = check_deepspeed({"zero_optimization": {"stage": 1}, "bf16": {"enabled": "auto"}, **auto}, "ds.json")
    assert passed == {"zero_optimization": {"stage": 1}}


@pytest.mark.parametrize(("text", "line"), [("{", "not readable as JSON"), ("[]", "expected a JSON object")])
def test_a_broken_file_is_told_in_a_line(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(RecipeError, match=line):
        read_launch({}, tmp_path / "ds.json")
    with pytest.raises(RecipeError, match="cannot be read"):
        read_launch({}, tmp_path / "none.json")


def launch(stage: int = 0, **changes: Any) -> Launch:
    return Launch(deepspeed={"zero_optimization": {"stage": stage}} if stage else None, **changes)


def test_recipe_and_launch_must_go_together() -> None:
    refuse_unlike(tiny.recipe(), launch(3))
    refuse_unlike(tiny.recipe(training={"precision": "bf16"}), launch(mixed_precision="bf16"))
    with pytest.raises(RecipeError, match="mixed_precision bf16 and the recipe for fp32"):
        refuse_unlike(tiny.recipe(), launch(mixed_precision="bf16"))
    with pytest.raises(MachineError, match="Muon"):
        refuse_unlike(tiny.recipe("pretrain", training={"matrix_learning_rate": 0.01}), launch(1))
    with pytest.raises(MachineError, match="'adamw_8bit' is not supported under DeepSpeed"):
        refuse_unlike(tiny.recipe(training={"optimizer": "adamw_8bit"}), launch(2))
    model = {"path": "somewhere", "lora": tiny.LORA.model_dump(), "quantisation": "nf4"}
    refuse_unlike(tiny.recipe(model=model), launch(2))
    with pytest.raises(MachineError, match="ZeRO-3 cannot shard 4-bit weights"):
        refuse_unlike(tiny.recipe(model=model), launch(3))
    head = {"name": "ppo", "critic": {"kind": "head", "pretraining_steps": 1}}
    refuse_unlike(tiny.recipe(algorithm=head), launch())
    with pytest.raises(MachineError, match=r"algorithm.critic.kind: 'head'"):
        refuse_unlike(tiny.recipe(algorithm=head), launch(1))


def test_verbs_other_than_train_take_one_process() -> None:
    refuse_several({}, "ablate")
    refuse_several({"WORLD_SIZE": "1"}, "ablate")
    with pytest.raises(MachineError, match="'ablate' runs in one"):
        refuse_several({"WORLD_SIZE": "2"}, "ablate")


def test_what_deepspeeds_launcher_adds_to_the_command_line_is_taken_off() -> None:
    assert without_local_rank(["--local_rank=3", "train", "r.yaml", "seed=1"]) == ["train", "r.yaml", "seed=1"]


def test_the_published_deepspeed_configurations_are_good() -> None:
    files = sorted(LAUNCH.glob("*.json"))
    assert [file.stem for file in files] == ["zero1", "zero2", "zero2_offload", "zero3"]
    for file in files:
        assert check_deepspeed(json.loads(file.read_text()), file.name)["zero_optimization"]["stage"] in (1, 2, 3)
