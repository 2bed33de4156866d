"""One process or two, weights whole or cut up: the same rollouts, rewards, advantages, gradients and weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latentpad.recipe.load import dump
from tests import tiny
from tests.distributed import ranks
from tests.training import runs, worker

pytest.importorskip("deepspeed")

STEPS = 3
TRAINING = {"steps": STEPS, "checkpoint_every": STEPS, "learning_rate": 0.01, "micro_batch_tokens": 128}
LORA = {"lora": tiny.LORA.model_dump()}
# What rollouts and rewards decide: the same to the last digit. The rest is sums in another order.
DRAWN = ("reward", "signal", "live_groups", "response_tokens", "truncated", "wrong", "samples", "tokens_trained")
CRITIC = {"name": "ppo", "critic": {"kind": "model", "pretraining_steps": 1, "learning_rate": 0.003}}
# Three chunks of whole groups a step, for two processes; five prompts of one and two digits.
UNEVEN = {"rl": {"prompts_per_step": 5, "group_size": 8}, "rollout": {"max_new_tokens": 8, "chunk_size": 16}}
RL: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": {"name": "grpo"}},
    "grpo-lora": {"algorithm": {"name": "grpo"}, "model": LORA},
    "grpo-kl": {
        "algorithm": {"name": "grpo"},
        "rl": UNEVEN["rl"] | {"kl": {"coef": 0.1}, "entropy_coef": 0.01, "epochs": 2, "minibatches": 2},
        "model": LORA,
    },
    "ppo": {"algorithm": CRITIC},
    "ppo-lora": {"algorithm": {**CRITIC, "critic": {**CRITIC["critic"], "lora_rank": 2}}, "model": LORA},  # type: ignore[dict-item]
    "ppo-head": {"algorithm": {"name": "ppo", "critic": {"kind": "head", "pretraining_steps": 1, "loss_coef": 0.1}}},
    "activations anew": {"algorithm": {"name": "grpo"}, "training": {**TRAINING, "activation_checkpointing": True}},
}
EVERYWHERE = ("pretrain", "supervised", "supervised-lora", "grpo", "grpo-lora", "ppo", "ppo-lora")
CASES = [
    *((name, strategy) for name in EVERYWHERE for strategy in ranks.STRATEGIES[:4]),
    *((name, "zero-2-offload") for name in ("grpo-lora", "supervised-lora")),
    *((name, strategy) for name in ("grpo-kl", "activations anew") for strategy in ("replicated", "zero-3")),
    ("grpo-kl", "zero-2"),
    ("ppo-head", "replicated"),
]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def write_recipe(name: str, base: Path, folder: Path) -> Path:
    if name in RL:
        changes: dict[str, Any] = {"training": TRAINING, "task": {"name": "addition", "digits": [1, 2]}, **UNEVEN}
        return runs.write_rl(base, folder, **(changes | RL[name]))
    method, _, kind = name.partition("-")
    changes = {
        "training": TRAINING,
        "task": {"name": "addition", "digits": [1, 2]},
        "evaluation": {"problems": 4, "max_new_tokens": 64},
    }
    if method == "supervised":
        changes |= {"model": {"path": str(base)} | (LORA if kind else {}), "supervised": {"examples_per_step": 6}}
    (folder / "recipe.yaml").write_text(dump(tiny.recipe(method, **changes)))
    return folder / "recipe.yaml"


@pytest.fixture(scope="session")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The recipe and its run by one process."""

    @cache
    def run(name: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("alone")
        recipe = write_recipe(name, base, folder)
        assert worker.finish(worker.start(recipe, folder / "run", ranks.plain_descent)) == 0
        return recipe, folder / "run"

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    [file] = (run / "checkpoints" / str(STEPS)).glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_two_processes_do_what_one_does(
    name: str, strategy: str, alone: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    recipe, expected = alone(name)
    found = ranks.trained(recipe, tmp_path / "run", strategy=strategy, also=ranks.plain_descent)
    ours, theirs = runs.metrics(found), runs.metrics(expected)
    assert [record.keys() for record in ours] == [record.keys() for record in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for key in other:
            exact = key in DRAWN or key == "step"
            assert mine[key] == (other[key] if exact else pytest.approx(other[key], rel=2e-4, abs=2e-6)), key
    # Plain descent of a policy: what a weight has moved by is the sum of its gradients, times 0.01.
    moved, start = weights(found), weights(expected)
    assert moved.keys() == start.keys()
    for weight, value in start.items():
        torch.testing.assert_close(moved[weight], value, rtol=1e-4, atol=2e-6, msg=weight)
    in_effect = json.loads((found / "environment.json").read_text())["in_effect"]
    assert in_effect[0].startswith("2 processes by torchrun, exchanging by gloo")
    assert strategy.removesuffix("-offload") in in_effect[0]


def test_these_runs_have_what_could_go_wrong(alone: Callable[[str], tuple[Path, Path]]) -> None:
    """Groups of which only some are live, responses of many lengths, weights that move."""
    _, run = alone("grpo")
    live = [record["live_groups"] for record in runs.metrics(run)]
    assert any(0 < share < 1 for share in live)
    assert all(record["grad_norm"] > 0.01 for record in runs.metrics(run))
    evaluated = [json.loads(line) for line in (run / "eval" / f"{STEPS}.jsonl").read_text().splitlines()]
    assert len({len(line["response"]) for line in evaluated}) > 1


@dataclass(frozen=True)
class Trouble:
    """From step 3 on the loss is not a number, until steps are halved twice."""

    def __call__(self, rank: int = 0) -> None:
        runs.Trouble(step=3, while_scale=0.5)()


@pytest.mark.parametrize("strategy", ["replicated", "zero-2", "zero-3"])
def test_processes_roll_back_together(strategy: str, base: Path, tmp_path: Path) -> None:
    training = {**TRAINING, "steps": 5, "checkpoint_every": 1}
    health = {"action": "roll_back", "window": 1}
    recipe = runs.write_rl(base, tmp_path, training=training, health=health, algorithm=CRITIC, model=LORA)
    assert worker.finish(worker.start(recipe, tmp_path / "alone", Trouble())) == 0
    found = ranks.trained(recipe, tmp_path / "run", strategy=strategy, also=Trouble())
    ours, theirs = runs.metrics(found), runs.metrics(tmp_path / "alone")
    assert runs.alarms(found) == runs.alarms(tmp_path / "alone") != []
    assert [record["step"] for record in ours] == [1, 2, 3, 4, 5]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["samples"] == other["samples"]
        assert mine["value_loss"] == pytest.approx(other["value_loss"], rel=1e-3)
        assert mine.get("learning_rate") == other.get("learning_rate")
    assert ours[-1]["learning_rate"] == 0.0025


@pytest.mark.parametrize("strategy", ["replicated", "zero-2", "zero-3"])
def test_in_bfloat16_the_first_step_is_about_that_in_float32(strategy: str, base: Path, tmp_path: Path) -> None:
    first = {**TRAINING, "steps": 1, "checkpoint_every": 1}
    exact = runs.write_rl(base, tmp_path / "fp32", training=first, model=LORA, **UNEVEN)
    rounded = runs.write_rl(base, tmp_path / "bf16", training={**first, "precision": "bf16"}, model=LORA, **UNEVEN)
    assert worker.finish(worker.start(exact, tmp_path / "fp32" / "run")) == 0
    found = ranks.trained(rounded, tmp_path / "bf16" / "run", strategy=strategy)
    [expected], [step] = runs.metrics(tmp_path / "fp32" / "run"), runs.metrics(found)
    assert step["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.1)
    assert step["grad_norm"] != expected["grad_norm"]
    assert step["mismatch_kl"] < 1e-4
    assert any(
        "computed in bfloat16" in line for line in json.loads((found / "environment.json").read_text())["in_effect"]
    )
