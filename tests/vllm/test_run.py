"""Whole runs that sample with the real vLLM: proved at the start, probed at every step, and learning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from latentpad.experiments.run import run_recipe
from latentpad.recipe.schema import Recipe
from tests import tiny

SIZES = {"hidden_size": 64, "layers": 2, "heads": 2, "intermediate_size": 64, "max_positions": 128}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    recipe = tiny.recipe(
        "pretrain",
        model={"scratch": SIZES},
        pretrain={"documents_per_step": 32, "scratchpad_share": 0.0},
        training={"steps": 80, "learning_rate": 0.01, "checkpoint_every": 80, "micro_batch_tokens": 4096},
    )
    run_recipe(recipe, folder)
    return folder / "checkpoints" / "80"


def recipe_for(base: Path, staleness: int, **changes: Any) -> Recipe:
    return tiny.recipe(
        model={"path": str(base), **changes},
        rl={"prompts_per_step": 6, "group_size": 8},
        rollout={"engine": "vllm", "max_new_tokens": 8, "chunk_size": 48, "max_staleness": staleness},
        training={"steps": 4, "learning_rate": 0.001},
        evaluation={"problems": 4, "max_new_tokens": 8},
        scratchpad="empty",
    )


@pytest.mark.parametrize(("staleness", "model"), [(0, {"lora": {"rank": 4, "alpha": 8}}), (1, {})])
def test_a_run_samples_from_the_policy_that_it_trains(
    base: Path, tmp_path: Path, staleness: int, model: dict[str, Any]
) -> None:
    run_recipe(recipe_for(base, staleness, **model), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 4
    assert max(record["grad_norm"] for record in records) > 0
    if staleness == 0:
        assert max(record["mismatch_kl"] for record in records) < 1e-7
    else:
        assert records[0]["mismatch_kl"] < 1e-7 < max(record["mismatch_kl"] for record in records[2:])
    assert "the engine follows the trained weights" in (tmp_path / "proofs.txt").read_text()
