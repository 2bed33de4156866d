"""Several processes and a pool of workers: rank 0 asks, all are given the same, and the numbers are those without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed")
pytest.importorskip("ray")

from tests import tiny
from tests.distributed import ranks
from tests.training import runs

STEPS = 4


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def write(base: Path, folder: Path, **rollout: Any) -> Path:
    return runs.write_rl(
        base,
        folder,
        model={"path": str(base), "lora": tiny.LORA.model_dump()},
        training={"steps": STEPS, "checkpoint_every": 2, "learning_rate": 0.01},
        rollout={"max_new_tokens": 8, "chunk_size": 16, **rollout},
    )


@pytest.mark.parametrize(
    ("strategy", "rollout"),
    [("replicated", {"max_staleness": 1}), ("zero-3", {"ray": {"workers": 2, "rewards": "tasks"}})],
)
def test_two_processes_with_a_pool_end_in_the_bits_of_two_without(
    strategy: str, rollout: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    plain = {key: value for key, value in rollout.items() if key != "ray"}
    expected = ranks.trained(write(base, tmp_path / "here", **plain), tmp_path / "here" / "run", strategy=strategy)
    recipe = write(base, tmp_path / "pool", engine="ray", **rollout)
    found = ranks.trained(recipe, tmp_path / "pool" / "run", strategy=strategy)
    assert runs.metrics(found) == runs.metrics(expected)
    assert len(runs.metrics(found)) == STEPS
    weights = f"checkpoints/{STEPS}/adapter_model.safetensors"
    assert (found / weights).read_bytes() == (expected / weights).read_bytes()
    assert [event["event"] for event in _events(found)].count("ready") == rollout.get("ray", {}).get("workers", 1)


def test_where_the_pool_is_lost_every_process_ends_with_a_checkpoint(base: Path, tmp_path: Path) -> None:
    recipe, run = write(base, tmp_path, engine="ray", ray={"restarts": 0}), tmp_path / "run"
    children = ranks.start(recipe, run, also=Killer())
    assert ranks.finish(children) == [3, 3]
    said = "".join(ranks.log_of(run, rank).read_text() for rank in range(2))
    assert said.count("the same command goes on from the checkpoint of step 1") == 2
    assert (run / "checkpoints" / "1" / "manifest.json").is_file()
    expected = ranks.trained(write(base, tmp_path / "here"), tmp_path / "here" / "run")
    ranks.trained(write(base, tmp_path), run)  # it goes on in these processes, without a pool
    assert runs.metrics(run) == runs.metrics(expected)


class Killer:
    """Kills the worker in the second step."""

    def __call__(self, rank: int) -> None:
        from latentpad.training.rl import RLTrainer

        collect = RLTrainer._collect

        def killing(trainer: RLTrainer, step: int) -> Any:
            if step == 1 and rank == 0:
                import os
                import signal

                [event] = [e for e in _events(trainer.run.path) if e["event"] == "ready"]
                os.kill(event["pid"], signal.SIGKILL)
            return collect(trainer, step)

        RLTrainer._collect = killing  # type: ignore[method-assign]


def _events(run: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
