"""What sampling one step ahead brings: `python tests/bench/bench_ahead.py RECIPE BASE... [KEY=VALUE...]`.

For each BASE (a checkpoint for model.path; the n-th with seed n) the recipe is trained a few steps in this process with
one thread, and by one learner and one worker that samples a step ahead, one thread each. Told is what a step takes
after the first five, in seconds, with what sampling and learning take of it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

STEPS, SKIPPED = 30, 5
KINDS = {
    "in step": [],
    "one step ahead": ["rollout.engine=ray", "rollout.ray.workers=1", "rollout.max_staleness=1"],
}


def steps_of(recipe: str, base: str, seed: int, kind: str, overrides: list[str]) -> list[dict[str, float]]:
    with TemporaryDirectory() as folder:
        changes = [f"model.path={base}", f"seed={seed}", f"training.steps={STEPS}", "evaluation.problems=2"]
        command = [sys.executable, "-m", "latentpad", "train", recipe, *changes, *KINDS[kind], *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--out", f"{folder}/run"], check=True, capture_output=True, env=environment)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["timing"] for line in lines]


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> None:
    recipe, *rest = sys.argv[1:]
    overrides = [word for word in rest if "=" in word]
    ratios = []
    for seed, base in enumerate(word for word in rest if "=" not in word):
        took = {}
        for kind in KINDS:
            timing = steps_of(recipe, base, seed, kind, overrides)
            took[kind] = (timing[-1]["total_seconds"] - timing[SKIPPED - 1]["total_seconds"]) / (STEPS - SKIPPED)
            later = timing[SKIPPED:]
            sampling = statistics.fmean(t.get("sample_seconds", t["rollout_seconds"]) for t in later)
            learning = statistics.fmean(t["train_seconds"] for t in later)
            say(f"seed {seed}, {kind}: a step {took[kind]:.3f} s; sampling {sampling:.3f}, learning {learning:.3f}")
        ratios.append(took["in step"] / took["one step ahead"])
        say(f"seed {seed}: {ratios[-1]:.2f} times as fast")
    say(f"all seeds: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; mean {statistics.fmean(ratios):.2f}")


if __name__ == "__main__":
    main()
