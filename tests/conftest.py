"""Set before anything heavy is imported: one thread, no hub, no telemetry."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

pytest.register_assert_rewrite("tests.rollout.contract", "tests.tasks.contract")


@pytest.fixture
def recipe_data() -> dict[str, Any]:
    """The keys of a small RL recipe without a fault, for a test to spoil."""
    return {
        "name": "small",
        "method": "rl",
        "task": {"name": "addition", "digits": [1, 2]},
        "format": "compact",
        "model": {
            "scratch": {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_positions": 64}
        },
        "rollout": {"max_new_tokens": 40, "chunk_size": 8},
        "training": {"steps": 2, "learning_rate": 3e-4, "checkpoint_every": 1},
        "evaluation": {"problems": 4, "max_new_tokens": 40},
        "rl": {"prompts_per_step": 2, "group_size": 4},
        "algorithm": {"name": "grpo"},
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a YAML file, from text or from data, and gives its path."""

    def write(content: str | dict[str, Any], name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return write
