"""A step's groups: sampled anew where they say nothing, from new problems, and told of as they were sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.algorithms.dapo import DAPO
from latentpad.recipe.load import content_key
from latentpad.recipe.rl_schema import LadderSection
from latentpad.rollout import Sampling
from latentpad.training.collect import Collector, has_signal, step_problems
from latentpad.training.ladder import Ladder
from latentpad.training.rl import RLTrainer
from latentpad.training.run_folder import RunFolder
from latentpad.training.step_metrics import over_updates, step_metrics
from latentpad.types import FinishReason, Rollout
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.rollout import Request
    from latentpad.types import Group

SAMPLING = Sampling(1.0, 32)
SIZE = 4  # prompts a step, and rollouts a prompt


@dataclass
class Engine:
    """In each call, the first `plan[call][i]` responses to problem i are right, the others wrong."""

    policy: Policy
    plan: list[list[int]]
    asked: list[Request] = field(default_factory=list)
    calls: int = 0

    def sync(self, version: int, adapter_hash: str) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        self.asked += requests
        rollouts = []
        for i, request in enumerate(requests):
            right = i % SIZE < self.plan[self.calls][i // SIZE]
            text = request.prompt.problem.answer if right else "<scratch>1</scratch>999"
            ids = (*self.policy.tokenizer.encode(text), self.policy.stop_ids[0])
            rollouts.append(Rollout(request.prompt, ids, (-2.0,) * len(ids), FinishReason.STOP, 0, "", request.seed))
        self.calls += 1
        return rollouts


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Read only: for its tokenizer."""
    return tiny.policy()


def collector(policy: Policy, plan: list[list[int]], rounds: int = 1, ladder: Ladder | None = None) -> Collector:
    engine = Engine(policy, plan)
    return Collector(tiny.recipe("rl"), policy, engine, tiny.task(), tiny.COMPACT, SAMPLING, rounds, ladder)


def right(groups: Sequence[Group]) -> list[int]:
    """How many of each are right."""
    return [sum(int(e.reward.value) for e in group.episodes) for group in groups]


def test_one_round_keeps_all_dead_groups_too(policy: Policy) -> None:
    found = collector(policy, [[2, 0, 4, 1]]).collect(0)
    assert found.kept == found.groups
    assert right(found.kept) == [2, 0, 4, 1]
    assert [has_signal(group) for group in found.groups] == [True, False, False, True]
    assert found.metrics() == {"grader_failed": 0.0, "sampling_rounds": 1, "kept_groups": 1.0}


def test_dead_groups_are_replaced_by_new_problems_and_no_more_are_kept_than_a_step_has(policy: Policy) -> None:
    made = collector(policy, [[2, 0, 4, 1], [0, 3, 0, 0], [1, 2, 3, 1]], rounds=4)
    found = made.collect(5)
    assert right(found.groups) == [2, 0, 4, 1, 0, 3, 0, 0, 1, 2, 3, 1]
    assert right(found.kept) == [2, 1, 3, 1]  # the first four with a signal, in the order of sampling
    assert found.metrics() == {"grader_failed": 0.0, "sampling_rounds": 3, "kept_groups": 4 / 12}
    # a round goes on with the places after the last: no problem comes twice, no seed either
    asked = made.engine.asked  # type: ignore[attr-defined]
    wanted = [p for n in range(3) for p in step_problems(tiny.task(), made.recipe, 5, sampling_round=n)]
    assert [request.prompt.problem for request in asked[::SIZE]] == wanted
    assert len({problem.id for problem in wanted}) > 8
    assert len({request.seed for request in asked}) == len(asked) == 48


def test_the_first_round_is_the_same_with_any_number_of_them(policy: Policy) -> None:
    few, many = collector(policy, [[1] * SIZE]), collector(policy, [[1] * SIZE], rounds=3)
    assert few.collect(2).groups == many.collect(2).groups  # enough at once: the plan has no second round


def test_the_rounds_are_used_up_where_nothing_has_a_signal(policy: Policy) -> None:
    found = collector(policy, [[0, 4, 0, 4]] * 3, rounds=3).collect(0)
    assert found.kept == []
    assert found.metrics() == {"grader_failed": 0.0, "sampling_rounds": 3, "kept_groups": 0.0}


def test_a_step_in_which_nothing_has_a_signal_takes_no_step_and_is_told(tmp_path: Path) -> None:
    made, recipe = tiny.policy(), tiny.recipe("rl", algorithm={"name": "dapo", "sampling_rounds": 2})
    engine = Engine(made, [[0, 0, 0, 0], [0, 4, 0, 0]])
    run = RunFolder(tmp_path, recipe, content_key(recipe))
    before = made.trainable_hash()
    trainer = RLTrainer(recipe, run, made, engine, tiny.task(), tiny.COMPACT, DAPO(sampling_rounds=2))
    values, _ = trainer.step()
    assert made.trainable_hash() == before
    wanted = {"reward": 4 / 32, "signal": 0.0, "kept_groups": 0.0, "live_groups": 0.0, "all_right": 1 / 8}
    assert {name: values[name] for name in wanted} == wanted
    assert (values["grad_norm"], values["sampling_rounds"]) == (0.0, 2)
    assert trainer.state.counters.samples == 32


@pytest.mark.parametrize(("frontier", "cells"), [(0, {"digits=2"}), (1, {"digits=1"})])
def test_a_ladder_decides_the_cells_of_every_round(policy: Policy, frontier: int, cells: set[str]) -> None:
    ladder = Ladder(LadderSection(rungs=["digits=2", "digits=1"], frontier_share=1.0))
    ladder.frontier = frontier
    found = collector(policy, [[0] * SIZE, [1] * SIZE], rounds=2, ladder=ladder).collect(0)
    assert len(found.groups) == 8
    assert {group.prompt.problem.cell for group in found.groups} == cells


def test_metrics_are_of_all_that_was_sampled_and_the_signal_of_what_was_kept(policy: Policy) -> None:
    found = collector(policy, [[2, 0, 4, 1], [0, 0, 0, 1]], rounds=2).collect(0)
    assert right(found.kept) == [2, 1, 1]
    values = step_metrics(policy, found.groups, [[0.5, 0.25]])
    # 8 groups of 4: 8 right; wrong ones write a scratchpad of 1 token
    wanted = {
        "reward": 8 / 32,
        "signal": 0.375,
        "scratchpad_rate": 24 / 32,
        "scratchpad_tokens": 24 / 32,
        "live_groups": 3 / 8,
        "all_right": 1 / 8,
        "all_wrong": 4 / 8,
        "entropy": 2.0,
        "wrong": 24 / 32,
        "truncated": 0.0,
        "unparseable": 0.0,
    }
    tokens = values.pop("response_tokens")
    assert values == pytest.approx(wanted)
    lengths = [len(e.rollout.token_ids) for group in found.groups for e in group.episodes]
    assert tokens == sum(lengths) / 32


def update(**values: float) -> dict[str, float]:
    return values


@pytest.mark.parametrize(
    ("updates", "merged"),
    [
        ([], {}),
        ([update(loss=1), update(loss=3)], {"loss": 2}),
        ([update(ratio_low=0.5), update(ratio_low=0.9)], {"ratio_low": 0.5}),
        ([update(ratio_high=1.5), update(ratio_high=1.1)], {"ratio_high": 1.5}),
        ([update(effective_samples=0.9), update(effective_samples=0.2)], {"effective_samples": 0.2}),
        # after the first update the weights are no longer the sampler's
        ([update(sampler_kl=0.001), update(sampler_kl=0.5)], {"mismatch_kl": 0.001}),
        # the critic's updates tell of other things
        ([update(loss=1, sampler_kl=0), update(value_loss=4)], {"loss": 1, "value_loss": 4, "mismatch_kl": 0}),
    ],
)
def test_updates_of_a_step_become_one_line(updates: list[dict[str, Any]], merged: dict[str, float]) -> None:
    assert over_updates(updates) == merged
