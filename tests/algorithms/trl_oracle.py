"""TRL's own trainers, as oracles of losses and advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

LIMIT = 6


def trainer(kind: str, folder: Path, model: Any, **config: Any) -> Any:
    """A real `GRPOTrainer` or `RLOOTrainer` around this model."""
    from transformers import AutoTokenizer

    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "out"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        num_generations=2,
        per_device_train_batch_size=6,
        max_completion_length=LIMIT,
        **({"beta": 0.0} | config),
    )
    made = getattr(trl, f"{kind}Trainer")(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": "1+1="}] * 6),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    made.current_gradient_accumulation_steps = 1
    return made
