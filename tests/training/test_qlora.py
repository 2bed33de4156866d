"""QLoRA runs as a LoRA run does: proved at start, graded by answers alone, its base untouched, resumed to the bit."""

from __future__ import annotations

import shutil
import signal
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.experiments import run as experiment
from latentpad.models import build
from latentpad.models.policy import load_policy
from latentpad.recipe.load import load_recipe
from latentpad.rollout.local import LocalEngine
from latentpad.training.checkpoint import STATE, steps_in
from latentpad.types import FinishReason, Rollout
from tests import tiny
from tests.training import runs, worker

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy

STEPS, KILLS = 6, 3
ROLLOUTS = runs.PAYS["prompts_per_step"] * runs.PAYS["group_size"]
SIZES = tiny.SIZES.model_copy(update={"hidden_size": 64, "intermediate_size": 128})
LORA = {"rank": 8, "alpha": 16.0}
# 128 x 32 numbers in an adapter's matrix are enough for an 8-bit state.
WIDE = {"rank": 32, "alpha": 64.0}
TRAINING = {"steps": STEPS, "checkpoint_every": 1, "learning_rate": 0.003, "schedule": "cosine"}
RECIPES: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": {"name": "grpo"}, "lora": LORA, "rl": {"kl": {"coef": 0.05}}},
    "ppo": {
        "algorithm": {
            "name": "ppo",
            "critic": {"kind": "model", "lora_rank": 2, "minibatches": 2, "pretraining_steps": 1},
        },
        "lora": LORA,
    },
    "grpo in bf16 with adamw_8bit": {
        "algorithm": {"name": "grpo"},
        "lora": WIDE,
        "training": {"precision": "bf16", "optimizer": "adamw_8bit"},
    },
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that answers some one-digit sums, of layers that divide into blocks."""
    home = tmp_path_factory.mktemp("qlora-base")
    recipe = tiny.recipe(
        "pretrain",
        model={"scratch": SIZES.model_dump()},
        pretrain={"documents_per_step": 32, "scratchpad_share": 0.0},
        training={"steps": 80, "learning_rate": 0.01, "checkpoint_every": 80, "micro_batch_tokens": 4096},
    )
    experiment.run_recipe(recipe, home / "run")
    return home / "run" / "checkpoints" / "80"


def write_recipe(name: str, base: Path, folder: Path) -> Path:
    changes = dict(RECIPES[name])
    model = {"path": str(base), "lora": changes.pop("lora"), "quantisation": "nf4"}
    training = TRAINING | changes.pop("training", {})
    return runs.write_rl(base, folder, model=model, training=training, **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_proved_graded_by_answers_and_leaves_its_base_alone(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = load_recipe(write_recipe(name, base, tmp_path))
    policies: list[Policy] = []
    batches: list[list[Rollout]] = []
    start, generate = build.starting_policy, LocalEngine.generate

    def starting(*args: Any, **kwargs: Any) -> Policy:
        policies.append(start(*args, **kwargs))
        return policies[-1]

    def generated(engine: LocalEngine, *args: Any, **kwargs: Any) -> list[Rollout]:
        batches.append(generate(engine, *args, **kwargs))
        return batches[-1]

    monkeypatch.setattr(build, "starting_policy", starting)
    monkeypatch.setattr(LocalEngine, "generate", generated)
    fresh = load_policy(
        base, lora=recipe.model.lora, seed=recipe.seed, quantisation="nf4", precision=recipe.training.precision
    )
    experiment.run_recipe(recipe, tmp_path / "run")

    [policy] = policies
    assert policy.quantised
    assert policy.base_hash() == fresh.base_hash()
    before, after = fresh.trainable(), policy.trainable()
    assert all("lora_" in name for name in after)
    assert all(not torch.equal(before[name], after[name]) for name in after)
    assert {p.dtype for p in after.values()} == {torch.float32}

    def right(rollout: Rollout) -> bool:
        text = policy.tokenizer.decode(rollout.token_ids, skip_special_tokens=True)
        return rollout.finish_reason is FinishReason.STOP and text == rollout.prompt.problem.answer

    records = runs.metrics(tmp_path / "run")
    steps = [batch for batch in batches if len(batch) == ROLLOUTS]
    assert [record["reward"] for record in records] == pytest.approx(
        [sum(map(right, batch)) / ROLLOUTS for batch in steps]
    )
    assert sum(record["reward"] for record in records) > 0
    assert sum(record.get("grad_norm", 0) > 0 for record in records) > STEPS / 2
    state = torch.load(tmp_path / "run" / "checkpoints" / str(STEPS) / STATE, weights_only=True)
    assert (state["base"], state["hash"]) == (policy.base_hash(), policy.trainable_hash())
    proofs = (tmp_path / "run" / "proofs.txt").read_text()
    assert all(told in proofs for told in ("ratio is 1", "the engine follows", "rewarded responses likelier"))


def test_what_is_evaluated_is_what_was_trained(tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(write_recipe("grpo", base, tmp_path))
    experiment.run_recipe(recipe, tmp_path / "run")
    opened = experiment.open_run(tmp_path / "run").policy()
    trained = load_policy(base, lora=recipe.model.lora, seed=recipe.seed, quantisation="nf4")
    state = torch.load(tmp_path / "run" / "checkpoints" / str(STEPS) / STATE, weights_only=True)
    with torch.no_grad():
        for name, parameter in trained.trainable().items():
            parameter.copy_(state["weights"][name])
    ours, theirs = ([r.token_ids for r in tiny.sampled(p, 8, temperature=0)] for p in (opened, trained))
    assert ours == theirs
    found, wanted = ([r.logprobs for r in tiny.sampled(p, 8)] for p in (opened, trained))
    assert found == wanted


@pytest.mark.parametrize("name", RECIPES)
def test_killed_again_and_again_a_run_ends_in_the_same_bits(tmp_path: Path, base: Path, name: str) -> None:
    recipe, rng = write_recipe(name, base, tmp_path), Random(f"kills/{name}")
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    assert worker.finish(worker.start(recipe, undisturbed)) == 0
    taken_up_from = []
    for step in (1, 3, 5)[:KILLS]:
        child = worker.start(recipe, run)
        worker.signal_at(child, run, step, after=rng.uniform(0, 0.02))
        worker.finish(child)
        assert child.exitcode == -signal.SIGKILL
        taken_up_from.append(max(steps_in(run / "checkpoints"), default=0))
    assert worker.finish(worker.start(recipe, run)) == 0
    assert len(set(taken_up_from)) > 1
    runs.assert_same_run(run, undisturbed, steps=STEPS)
    leaves = runs.saved(run / "checkpoints" / str(STEPS))
    bytes_ = [leaf for leaf, value in leaves.items() if isinstance(value, torch.Tensor) and value.dtype == torch.uint8]
    assert any("/optimizer/" in leaf for leaf in bytes_) is ("8bit" in name)


def test_on_a_base_that_has_changed_a_run_is_not_resumed(tmp_path: Path, base: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    recipe, run = write_recipe("grpo", tmp_path / "base", tmp_path), tmp_path / "run"
    child = worker.start(recipe, run)
    worker.signal_at(child, run, 2)
    assert worker.finish(child) == -signal.SIGKILL
    changed = load_policy(tmp_path / "base")
    with torch.no_grad():
        changed.model.model.layers[0].mlp.up_proj.weight[0, :64] *= 1.5  # one block: its codes stay, its scale does not
    changed.save(tmp_path / "base")
    assert worker.finish(worker.start(recipe, run)) == 2
    assert len(runs.metrics(run)) < STEPS
