"""The pool keeps the engine contract on real Ray workers, bit for bit as in this process; lies are found out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from latentpad.launch.cluster import Cluster, cluster
from latentpad.models.policy import Policy
from latentpad.recipe.errors import MachineError
from latentpad.recipe.schema import Recipe
from latentpad.rollout import Sampling
from latentpad.rollout.crew import PoolLost
from latentpad.rollout.local import LocalEngine, LocalSampler
from latentpad.rollout.pool import Pool
from latentpad.rollout.weights import Header, SyncError, Weights
from latentpad.rollout.worker import Reply, RolloutWorker
from tests import tiny
from tests.rollout.contract import EngineContract, MakeEngine

PLAIN = Sampling(1.0, 8)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    with cluster(None, cpus=4) as joined:  # room for two pools
        yield joined


def recipe_for(architecture: str = "llama", *, workers: int = 2, **more: Any) -> Recipe:
    sizes = tiny.SIZES.model_copy(update={"architecture": architecture})
    rollout = {"engine": "ray", "ray": {"workers": workers, **more}}
    return tiny.recipe(
        task={"name": "addition", "digits": [1, 2]}, model={"scratch": sizes.model_dump()}, rollout=rollout
    )


def stopping_at(stops: tuple[int, ...]) -> type[RolloutWorker]:
    class Stops(RolloutWorker):
        """A checkpoint with other stop tokens."""

        def __init__(self, recipe: dict[str, Any], threads: int) -> None:
            super().__init__(recipe, threads)
            self._policy = replace(self._policy, stop_ids=stops)
            self._identity = replace(self._identity, stop_ids=stops)
            self._sampler = LocalSampler(self._policy)

    return Stops


@pytest.fixture(scope="module")
def pool_of(ray_cluster: Cluster, policy: Policy) -> Iterator[MakeEngine]:
    """A pool for each list of stop tokens: starting one takes seconds."""
    pools: dict[tuple[int, ...], Pool] = {}

    def make(asked: Policy) -> Pool:
        if (pool := pools.get(asked.stop_ids)) is None:
            while pools:
                pools.popitem()[1].close()
            recipe = recipe_for(policy.model.config.model_type)
            pool = Pool(asked, recipe, ray_cluster, worker_class=stopping_at(asked.stop_ids))
            pools[asked.stop_ids] = pool
        pool.sync(0, asked.trainable_hash())
        return pool

    yield make
    for pool in pools.values():
        pool.close()


class TestPool(EngineContract):
    @pytest.fixture
    def make_engine(self, pool_of: MakeEngine) -> MakeEngine:
        return pool_of

    def test_rollouts_are_those_of_this_process_to_the_bit(self, make_engine: MakeEngine, policy: Policy) -> None:
        asked = tiny.requests(policy, 70)
        here = LocalEngine(policy, chunk_size=16)
        here.sync(0, policy.trainable_hash())
        assert make_engine(policy).generate(asked, PLAIN) == here.generate(asked, PLAIN)

    def test_weights_that_move_are_followed_and_older_ones_are_still_served(
        self, make_engine: MakeEngine, policy: Policy
    ) -> None:
        pool, here, asked = make_engine(policy), LocalEngine(policy, chunk_size=16), tiny.requests(policy, 20)
        assert isinstance(pool, Pool)
        old = pool.current
        before = pool.generate(asked, PLAIN)
        weight = next(iter(policy.trainable().values()))
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.add_(0.1)
        try:
            for engine in (pool, here):
                engine.sync(1, policy.trainable_hash())
            assert pool.generate(asked, PLAIN) == here.generate(asked, PLAIN) != before
            assert pool.submit(asked, PLAIN, old).wait() == before
        finally:
            with torch.no_grad():
                weight.copy_(kept)


def private_memory(pid: int) -> float:
    """Megabytes of a process that it shares with none."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def test_memory_stays_what_it_is_over_300_syncs(ray_cluster: Cluster) -> None:
    policy = tiny.policy(sizes=tiny.SIZES.model_copy(update={"hidden_size": 128, "intermediate_size": 512}))
    sizes = sum(p.numel() for p in policy.trainable().values()) * 4 / 2**20
    assert sizes > 1.5  # megabytes: kept, 250 of them would show
    recipe = recipe_for(workers=1)
    assert recipe.model.scratch is not None
    larger = recipe.model.scratch.model_copy(update={"hidden_size": 128, "intermediate_size": 512})
    pool = Pool(
        policy, recipe.model_copy(update={"model": recipe.model.model_copy(update={"scratch": larger})}), ray_cluster
    )
    [request], first, found = tiny.requests(policy, 1), next(iter(policy.trainable().values())), []
    try:
        for version in range(300):
            with torch.no_grad():
                first.add_(1e-4)
            pool.sync(version, policy.trainable_hash())
            pool.generate([request], Sampling(1.0, 1))
            if version in (50, 299):
                [worker] = pool._crew._who.values()
                found.append((private_memory(os.getpid()), private_memory(worker.pid)))
    finally:
        pool.close()
    (driver, worker_memory), (driver_after, worker_after) = found
    assert driver_after - driver < 10
    assert worker_after - worker_memory < 10
    assert pool.largest_deviation == 0.0


class Stale(RolloutWorker):
    """Takes the first weights that it is sent and no others, and says what is expected of it (verl #7495)."""

    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        super().__init__(recipe, threads)
        load = self._sampler.load
        loaded: list[str] = []

        def once(weights: Weights) -> str:
            if not loaded:
                loaded.append(load(weights))
            return weights.hash

        self._sampler.load = once  # type: ignore[method-assign]


class WrongNames(RolloutWorker):
    """Drops what it does not know by name, as `load_state_dict(strict=False)` does (OpenRLHF #546)."""

    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        super().__init__(recipe, threads)

        def load(weights: Weights) -> str:
            named = {f"model.{name}": tensor for name, tensor in weights.tensors().items()}
            self._policy.model.load_state_dict(named, strict=False)
            return weights.hash

        self._sampler.load = load  # type: ignore[method-assign]


class Half(RolloutWorker):
    """Takes every second tensor."""

    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        super().__init__(recipe, threads)

        def load(weights: Weights) -> str:
            tensors = dict(list(weights.tensors().items())[::2])
            self._policy.model.load_state_dict(tensors, strict=False)
            return self._policy.trainable_hash()

        self._sampler.load = load  # type: ignore[method-assign]


class Forgetful(RolloutWorker):
    """Samples from what it was sent first, whatever is asked for, and says so."""

    def sample(self, header: Header, *rest: Any) -> Reply:
        reply = super().sample(header, *rest)
        return replace(reply, version=7)


class OtherBase(RolloutWorker):
    """Another checkpoint at the same path."""

    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        super().__init__(recipe, threads)
        self._identity = replace(self._identity, base_hash="another")


class OtherVersion(RolloutWorker):
    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        super().__init__(recipe, threads)
        self._identity = replace(self._identity, versions={**self._identity.versions, "torch": "1.0"})


class NoCheckpoint(RolloutWorker):
    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        super().__init__({**recipe, "model": {"path": "/nowhere/at/all"}}, threads)


@pytest.mark.parametrize(
    ("worker", "error", "said"),
    [
        (Stale, SyncError, r"rollout worker 0 \(process .*its policy is not the trainer's at version 8"),
        (WrongNames, SyncError, "its policy is not the trainer's at version 7"),
        (Half, PoolLost, "the model has hash .* after loading, sent were those with"),
        (Forgetful, SyncError, "sampled from version 7 .*, asked was version 8"),
        (OtherBase, PoolLost, "holds other base weights: give every node the same checkpoint at model.path"),
        (OtherVersion, PoolLost, "has torch 1.0, this process"),
        (NoCheckpoint, PoolLost, "no folder /nowhere/at/all here"),
    ],
)
def test_a_worker_whose_weights_are_not_the_trainers_ends_the_run_at_the_first_step(
    ray_cluster: Cluster, worker: type[RolloutWorker], error: type[MachineError], said: str
) -> None:
    policy = tiny.policy(1)
    pool = Pool(policy, recipe_for(workers=1), ray_cluster, worker_class=worker)

    def two_steps() -> None:
        for version in (7, 8):
            pool.sync(version, policy.trainable_hash())
            pool.generate(tiny.requests(policy, 4), PLAIN)
            with torch.no_grad():
                for weight in policy.trainable().values():
                    weight.add_(0.05)

    try:
        with pytest.raises(error, match=said):
            two_steps()
    finally:
        pool.close()
