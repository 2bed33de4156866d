"""Runs every launcher x strategy x method for three steps and prints a table of how far each is from one plain process.

python tests/bench/launch_table.py FOLDER    (FOLDER keeps the runs; what is there is not run again)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHRUNK = "training.steps=6 training.checkpoint_every=6 training.warmup_steps=0 training.schedule=constant"
METHODS = {
    "pretrain": f"recipes/single/base.yaml {SHRUNK} training.matrix_learning_rate=null evaluation.problems=4",
    "supervised": f"recipes/single/nye.yaml {SHRUNK} evaluation.problems=4",
    "GRPO": f"recipes/single/grpo.yaml {SHRUNK} evaluation.problems=4",
    "PPO": f"recipes/single/grpo.yaml {SHRUNK} evaluation.problems=4 algorithm.name=ppo"
    " algorithm.critic.pretraining_steps=1 algorithm.critic.lora_rank=4",
    "PPO, QLoRA": f"recipes/single/ppo_qlora.yaml {SHRUNK} evaluation.problems=4 algorithm.critic.pretraining_steps=1"
    " training.optimizer=adamw",
    "GRPO, bf16": f"recipes/single/grpo_bf16.yaml {SHRUNK} evaluation.problems=4",
}
TORCHRUN = "torchrun --nproc_per_node 2 --master_port {port} -m latentpad train"
ACCELERATE = "accelerate launch --main_process_port {port}"
LAUNCHES = {
    "`latentpad train R`": "latentpad train",
    "`latentpad train R --deepspeed zero2.json`": "latentpad train --deepspeed recipes/launch/zero2.json",
    "`torchrun --nproc_per_node 2 -m latentpad train R`": TORCHRUN,
    "`torchrun ... R --deepspeed zero1.json`": f"{TORCHRUN} --deepspeed recipes/launch/zero1.json",
    "`torchrun ... R --deepspeed zero2.json`": f"{TORCHRUN} --deepspeed recipes/launch/zero2.json",
    "`torchrun ... R --deepspeed zero2_offload.json`": f"{TORCHRUN} --deepspeed recipes/launch/zero2_offload.json",
    "`torchrun ... R --deepspeed zero3.json`": f"{TORCHRUN} --deepspeed recipes/launch/zero3.json",
    "`accelerate launch --config_file cpu.yaml -m latentpad train R`": (
        f"{ACCELERATE} --config_file recipes/launch/cpu.yaml -m latentpad train"
    ),
    "`accelerate launch --config_file cpu_zero2.yaml ...`": f"{ACCELERATE} --config_file recipes/launch/cpu_zero2.yaml"
    " -m latentpad train",
    "`accelerate launch --use_deepspeed --zero_stage 3 --num_processes 2 ...`": f"{ACCELERATE} --use_deepspeed"
    " --zero_stage 3 --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m latentpad train",
    "`deepspeed --num_accelerators 2 --module latentpad train R --deepspeed zero1.json`": (
        "deepspeed --num_accelerators 2 --master_port {port} --module latentpad train"
        " --deepspeed recipes/launch/zero1.json"
    ),
    "`deepspeed ... R --deepspeed zero2.json`": "deepspeed --num_accelerators 2 --master_port {port} --module latentpad"
    " train --deepspeed recipes/launch/zero2.json",
    "`deepspeed ... R --deepspeed zero3.json`": "deepspeed --num_accelerators 2 --master_port {port} --module latentpad"
    " train --deepspeed recipes/launch/zero3.json",
}


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def difference(run: Path, plain: Path) -> str:
    """The largest relative difference of a metric over all steps; of losses near 0 the absolute one."""
    worst, name = 0.0, ""
    # Sums in bfloat16 differ with the micro-batch, and from the second step on the rollouts do too.
    steps = 1 if "bf16" in run.name else None
    for ours, theirs in zip(metrics(run)[:steps], metrics(plain)[:steps], strict=True):
        for key, value in theirs.items():
            if key != "timing" and (gap := abs(ours[key] - value) / max(abs(value), 0.1)) > worst:
                worst, name = gap, key
    return f"{worst:.0e} ({name})" if worst else "the same"


def cell(launch: str, method: str, number: int, folder: Path) -> str:
    """Run it unless it has been run; what came out."""
    run, plain = folder / f"{number}-{method}", folder / f"0-{method}"
    log = folder / f"{number}-{method}.log"
    if not log.is_file():
        command = f"{launch.format(port=29600 + number)} {METHODS[method]} --out '{run}'"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, shell=True, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=300
        )
        log.write_text(f"$ {command}\n{done.stdout}\n{done.stderr}\nexit {done.returncode}\n")
    if (run / "done.json").is_file():
        return difference(run, plain)
    lines = [line for line in log.read_text().splitlines() if line.startswith("latentpad: ")]
    return "refused" if lines else "FAILED"


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.write("| command | " + " | ".join(METHODS) + " |\n")
    sys.stdout.write("|---|" + "---|" * len(METHODS) + "\n")
    for number, (name, launch) in enumerate(LAUNCHES.items()):
        cells = [cell(launch, method, number, folder) for method in METHODS]
        sys.stdout.write(f"| {name} | " + " | ".join(cells) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
