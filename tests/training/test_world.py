"""A step's rows and chunks among processes: each exactly once, as many micro-batches for all; what is in effect."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentpad.launch import Launch
from latentpad.recipe.errors import MachineError
from latentpad.training.collate import Rows, cut_by_tokens, deal
from latentpad.training.processes.effect import in_effect
from latentpad.training.processes.strategy import SINGLE, Strategy
from latentpad.training.processes.world import ALONE, World
from tests import tiny

LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS, st.integers(1, 200), st.integers(1, 9))
def test_rows_are_dealt_out_once_each_in_as_many_parts_for_all(lengths: list[int], budget: int, size: int) -> None:
    dealt = [deal(lengths, budget, rank, size) for rank in range(size)]
    assert sorted(chain.from_iterable(chain.from_iterable(dealt))) == list(range(len(lengths)))
    assert len({len(parts) for parts in dealt}) == 1
    for part in chain.from_iterable(dealt):
        assert len(part) <= 1 or len(part) * max(lengths[i] for i in part) <= budget
    work = [sum(lengths[i] for part in parts for i in part) for parts in dealt]
    assert max(work) - min(work) <= max(lengths, default=0)


@given(LENGTHS, st.integers(1, 200))
def test_one_process_has_what_it_had_without_others(lengths: list[int], budget: int) -> None:
    assert deal(lengths, budget, 0, 1) == cut_by_tokens(lengths, budget)


def rows(count: int = 3) -> Rows:
    rollouts = tiny.sampled(tiny.policy(), count)
    return Rows(rollouts, [1.0] * count, [0.5] * count)


def test_a_process_that_waits_learns_nothing() -> None:
    policy = tiny.policy()
    optimizer = tiny.optimizer(policy)
    from latentpad.algorithms.grpo import GRPO
    from latentpad.training.learner import Learner

    learner = Learner(policy, GRPO(), optimizer, 1.0)
    some = rows(1)
    waiting = some.batches(1000, World(1, 2))
    assert len(waiting) == len(some.batches(1000, World(0, 2))) == 1
    learner.step(some.batches(1000), 0)
    policy.model.zero_grad(set_to_none=True)
    loss, _ = learner._loss(learner.forward(waiting[0]), waiting[0], 0.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not bool(p.grad.any()) for p in policy.trainable().values() if p.grad is not None)
    assert any(p.grad is not None for p in policy.trainable().values())


def test_alone_every_exchange_gives_back_what_was_given() -> None:
    assert ALONE.gather(7) == [7]
    assert ALONE.from_leader("a") == "a"
    assert ALONE.spread([1, 2, 3], lambda n: 2 * n) == [2, 4, 6]
    assert (ALONE.any(True), ALONE.any(False), ALONE.same([1]), ALONE.leads) == (True, False, True, True)
    ALONE.barrier()
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    ALONE.sum_gradients([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]


class Deaf(World):
    """Two processes of which the other one gives what it is told to."""

    def __init__(self, theirs: list[Any]) -> None:
        super().__init__(0, 2)
        self.theirs = theirs

    def gather(self, value: Any) -> list[Any]:
        return [value, self.theirs.pop(0)]


def test_items_are_shared_out_in_turn_and_all_get_all_in_order() -> None:
    world = Deaf([["1b", "3b"]])
    done = []

    def work(item: int) -> str:
        done.append(item)
        return f"{item}a"

    assert world.spread([0, 1, 2, 3, 4], work) == ["0a", "1b", "2a", "3b", "4a"]
    assert done == [0, 2, 4]


def test_what_is_in_effect_is_found_in_the_model() -> None:
    recipe, policy = tiny.recipe(), tiny.policy()
    lines = in_effect(recipe, policy, SINGLE, Launch())
    numbers = sum(p.numel() for p in policy.model.parameters())
    assert lines[0].startswith("1 process by latentpad; single on CPU")
    assert lines[1].startswith(f"all weights: {numbers:,} of {numbers:,} numbers trained by adamw in float32")
    assert lines[2] == "a step's 16 rollouts in 1 chunk"
    two = in_effect(recipe, policy, Strategy(World(0, 2)), Launch())
    assert two[2].endswith("which 2 processes cannot share evenly (rollout.chunk_size=8 would)")


@pytest.mark.parametrize(
    ("changes", "launch", "line"),
    [
        ({}, Launch(world_size=2), "asked for 2 processes, 1 have joined"),
        ({"training": {"precision": "bf16"}}, Launch(), "asked to compute in bfloat16"),
        ({"model": {"path": "x", "lora": tiny.LORA.model_dump()}}, Launch(), "the model has no adapter"),
    ],
)
def test_what_is_not_in_effect_is_refused(changes: dict[str, Any], launch: Launch, line: str) -> None:
    with pytest.raises(MachineError, match=line):
        in_effect(tiny.recipe(**changes), tiny.policy(), SINGLE, launch)
