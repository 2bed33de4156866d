"""Sampling ahead of the learner: step s is sampled by the policy of k steps before, while those between are learned.

How far ahead is fixed by the recipe, not by who is quick: the rollouts of step s come from version max(0, s - k). So a
run repeats bit for bit, nothing is ever discarded for being too old, and long responses are not left out.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from latentpad.rollout.weights import Entry, Weights, flatten
from latentpad.training.collect import Collected, add_up, graded_groups, step_cells
from latentpad.training.episodes import into_groups

if TYPE_CHECKING:
    from latentpad.rollout import Request
    from latentpad.training.collect import Collector
    from latentpad.training.led import LedUnderway


@dataclass(frozen=True)
class _Planned:
    """A step whose rollouts are asked for: its cells, which a ladder may have chosen, and what it is sampled from."""

    cells: list[str]
    weights: Weights
    requests: list[Request]
    asked: LedUnderway | None


class Ahead:
    """Asks for the rollouts of the next `staleness` steps before the learner needs them."""

    def __init__(self, collector: Collector, staleness: int) -> None:
        """For a run from its first step, or from what `load` gives."""
        self._collector, self._staleness = collector, staleness
        self._last = collector.recipe.training.steps - 1
        self._planned: dict[int, _Planned] = {}
        self._loaded: dict[int, tuple[list[str], Weights]] = {}

    def collect(self, step: int, adapter_hash: str) -> Collected:
        """The groups of step number `step` (from 0), once later ones are asked for.

        Raises:
            MachineError: the grader failed too often.
            PoolLost: the workers are gone; nothing is lost, the plans are in the next checkpoint.
        """
        collector = self._collector
        self._plan(step, adapter_hash)
        planned = self._planned[step]
        late = [] if planned.asked is None else planned.asked.late()
        start = time.monotonic()
        episodes = collector.episodes(planned.requests, planned.asked, planned.weights)
        add_up(collector.timing, {"waited_seconds": time.monotonic() - start, **_late(late)})
        if planned.asked is not None:
            add_up(collector.timing, planned.asked.timing())
        del self._planned[step]
        groups, failed = graded_groups(into_groups(episodes, collector.recipe.rl_section.group_size), step)
        return Collected(groups, groups, failed, 1)

    def _plan(self, step: int, adapter_hash: str) -> None:
        """Ask for this step and those after it, as far as is allowed."""
        collector, now = self._collector, None
        for ahead in range(step, min(step + self._staleness, self._last) + 1):
            if ahead in self._planned:
                continue
            if ahead in self._loaded:
                cells, weights = self._loaded.pop(ahead)
            else:
                now = now or flatten(collector.policy, step, adapter_hash)
                cells, weights = step_cells(collector.task, collector.recipe, ahead, ladder=collector.ladder), now
            requests = collector.requests(ahead, cells)
            self._planned[ahead] = _Planned(cells, weights, requests, collector.ask(requests, weights))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it: cells and weights, from which the very same rollouts are sampled again."""
        plans = {step: (p.cells, p.weights) for step, p in self._planned.items()} | self._loaded
        weights = {w.version: w for _, w in plans.values()}
        return {
            "steps": {step: {"cells": list(cells), "version": w.version} for step, (cells, w) in plans.items()},
            "weights": {version: _packed(w) for version, w in weights.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; what was asked for since is dropped."""
        for planned in self._planned.values():
            if planned.asked is not None:
                planned.asked.drop()
        self._planned = {}
        weights = {version: _unpacked(version, packed) for version, packed in state["weights"].items()}
        self._loaded = {step: (list(p["cells"]), weights[p["version"]]) for step, p in state["steps"].items()}


def _late(requests: list[Request]) -> dict[str, float]:
    """Rollouts that the learner has to wait for: how many, how many by cell. They are learned from all the same."""
    cells = Counter(request.prompt.problem.cell for request in requests)
    return {"late_rollouts": float(len(requests)), **{f"late[{cell}]": float(n) for cell, n in sorted(cells.items())}}


def _packed(weights: Weights) -> dict[str, Any]:
    entries = [[e.name, list(e.shape), e.dtype, e.start, e.stop] for e in weights.entries]
    buffer = torch.from_numpy(weights.buffer)
    return {"hash": weights.hash, "entries": entries, "digest": weights.digest, "buffer": buffer}


def _unpacked(version: int, packed: dict[str, Any]) -> Weights:
    entries = tuple(Entry(name, tuple(shape), *rest) for name, shape, *rest in packed["entries"])
    return Weights(version, packed["hash"], entries, packed["digest"], packed["buffer"].numpy())
