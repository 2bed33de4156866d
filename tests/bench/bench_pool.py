"""What a pool of rollout workers costs and brings on this machine: `python tests/bench/bench_pool.py [REPEATS]`.

- rollouts a second of one worker, and of two, beside sampling in this process, on the same requests in the same chunks;
- a sync of 4 MB of adapters: from the trainer's weights to weights that are loaded, hashed and probed in the worker;
- memory of driver and worker over 300 syncs.

Everything computes with one thread a process (OMP_NUM_THREADS=1); medians, and the middle half, over REPEATS.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from latentpad.launch.cluster import Cluster, cluster
from latentpad.models.policy import Policy, load_policy
from latentpad.recipe.schema import LoraSection, Recipe
from latentpad.rollout import Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.rollout.pool import Pool
from tests import tiny

SIZES = {"hidden_size": 256, "layers": 4, "heads": 4, "intermediate_size": 512, "max_positions": 128}
LORA = {"rank": 62, "alpha": 124}  # 4 MB
SAMPLING = Sampling(1.0, 64)
ROLLOUTS, CHUNK = 256, 64
SYNCS = 300
MEGABYTE = 2**20


def recipe_for(base: Path, workers: int) -> Recipe:
    rollout = {"engine": "ray", "ray": {"workers": workers}, "chunk_size": CHUNK}
    task = {"name": "addition", "digits": [1, 2]}
    return tiny.recipe(task=task, model={"path": str(base), "lora": LORA}, rollout=rollout)


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def spread(values: list[float]) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.4g} (middle half {low:.4g} to {high:.4g}, n = {len(values)})"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def resident(pid: int) -> float:
    """Megabytes of its own: resident and not shared with the object store or other processes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024


def throughput(policy: Policy, base: Path, joined: Cluster, repeats: int) -> None:
    asked = tiny.requests(policy, ROLLOUTS)
    here = LocalEngine(policy, chunk_size=CHUNK)
    one, two = (Pool(policy, recipe_for(base, workers), joined) for workers in (1, 2))
    engines = {"this process": here, "one worker": one, "two workers": two}
    for engine in engines.values():
        engine.sync(0, policy.trainable_hash())
    expected = here.generate(asked, SAMPLING)
    for engine in engines.values():
        for _ in range(2):  # once to start, once to be warm
            assert engine.generate(asked, SAMPLING) == expected
    found: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():  # in turn, so that what else the machine does hits all alike
            found[name].append(seconds(lambda engine=engine: engine.generate(asked, SAMPLING)))  # type: ignore[misc]
    tokens = sum(len(rollout.token_ids) for rollout in expected)
    for name, took in found.items():
        say(f"{name}: seconds for {ROLLOUTS} rollouts, {tokens} tokens: {spread(took)}")
    for name, other in (("one worker", "this process"), ("one worker", "two workers")):
        ratios = [a / b for a, b in zip(found[name], found[other], strict=True)]
        say(f"time of {name} / time of {other}, pair by pair: {spread(ratios)}")
    one.close()
    two.close()


def syncs(policy: Policy, base: Path, joined: Cluster) -> None:
    pool = Pool(policy, recipe_for(base, 1), joined)
    [request] = tiny.requests(policy, 1)
    short = Sampling(1.0, 1)
    size = sum(p.numel() * p.element_size() for p in policy.trainable().values()) / MEGABYTE
    pool.sync(0, policy.trainable_hash())
    pool.generate([request], short)
    bare = statistics.median(seconds(lambda: pool.generate([request], short)) for _ in range(30))
    [worker] = pool._crew._who.values()
    first = next(iter(policy.trainable().values()))
    took, memory = [], {}
    for version in range(1, SYNCS + 1):
        with torch.no_grad():
            first.add_(1e-4)

        def sync(version: int = version) -> None:
            pool.sync(version, policy.trainable_hash())
            pool.generate([request], short)

        took.append(1000 * (seconds(sync) - bare))
        if version in (20, 100, 200, SYNCS):
            memory[version] = (resident(os.getpid()), resident(worker.pid))
    say(f"sync of {size:.2f} MB, ms beyond a request without one ({1000 * bare:.1f} ms): {spread(took)}")
    say(f"largest deviation of a probe's logprob: {pool.largest_deviation:.2g} nats")
    for version, (driver, other) in memory.items():
        say(f"private memory after {version} syncs: driver {driver:.1f} MB, worker {other:.1f} MB")
    pool.close()


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with TemporaryDirectory() as folder, cluster(None, cpus=4) as joined:
        base = Path(folder)
        tiny.policy(sizes=tiny.SIZES.model_copy(update=SIZES), sharpness=1.0).save(base)
        policy = load_policy(base, lora=LoraSection(**LORA), seed=0)  # type: ignore[arg-type]
        throughput(policy, base, joined, repeats)
        syncs(policy, base, joined)


if __name__ == "__main__":
    main()
