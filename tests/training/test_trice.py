"""TRICE in the loop: the same problems come again, what was right of them is remembered, and a resumed run knows it."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import build_algorithm
from latentpad.algorithms.trice import TRICE
from latentpad.experiments.run import run_recipe
from latentpad.models.reference import Reference
from latentpad.recipe.load import content_key
from latentpad.rollout.local import LocalEngine
from latentpad.training.checkpoint import STATE
from latentpad.training.collect import step_problems
from latentpad.training.learner import Learner
from latentpad.training.memory import Memory, make_memory_rows
from latentpad.training.proofs import ProofFailed, prove_all, prove_start
from latentpad.training.rl import RLTrainer
from latentpad.training.run_folder import RunFolder
from latentpad.types import TokenLoss
from reward import Outcome, Reward
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.types import Rollout

STEPS = 6


def recipe(**changes: Any) -> Recipe:
    sections: dict[str, Any] = {
        "algorithm": {"name": "trice"},
        "rl": {"problems": 2, "prompts_per_step": 4, "group_size": 4},
        "rollout": {"max_new_tokens": 8, "chunk_size": 16},
        "training": {"steps": STEPS, "checkpoint_every": 1, "learning_rate": 0.01, "micro_batch_tokens": 128},
        "evaluation": {"problems": 2, "max_new_tokens": 8},
    }
    return tiny.recipe("rl", **{k: {**sections.get(k, {}), **changes.get(k, {})} for k in sections | changes})


def trainer(folder: Path, made: Recipe, policy: Policy | None = None) -> RLTrainer:
    policy = policy or tiny.policy()
    assert made.algorithm is not None
    run, engine = RunFolder(folder, made, content_key(made)), LocalEngine(policy, chunk_size=16)
    return RLTrainer(made, run, policy, engine, tiny.task(), tiny.COMPACT, build_algorithm(made.algorithm))


def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most answers that begin with a digit are right: a random policy is right now and then."""

    def grade(answer: str, _gold: str, **_options: Any) -> Reward:
        return Reward.of(Outcome.CORRECT if answer[:1] in "01234567" else Outcome.WRONG)

    monkeypatch.setattr("reward.integer.grade_integer", grade)


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "timing"} for line in lines]


def test_the_same_problems_come_again_and_again_in_every_cell_and_differ_by_seed() -> None:
    made = recipe(task={"name": "addition", "digits": [1, 2]}, rl={"problems": 3, "prompts_per_step": 8})
    drawn = [p for step in range(30) for p in step_problems(tiny.task(), made, step)]
    times = Counter((p.cell, p.id) for p in drawn)
    assert Counter(cell for cell, _ in times) == {"digits=1": 3, "digits=2": 3}
    assert min(times.values()) > 20  # of 40 on average
    assert len({tuple(p.id for p in drawn[i : i + 8]) for i in range(0, 240, 8)}) > 25  # not in one order
    again = [p for step in range(30) for p in step_problems(tiny.task(), made, step)]
    assert again == drawn
    other = step_problems(tiny.task(), made.model_copy(update={"seed": 1}), 0)
    assert {p.id for p in other} - {p.id for p in drawn}


def test_without_the_key_problems_stay_new() -> None:
    made = recipe(rl={"problems": None}, algorithm={"name": "grpo"}, task={"name": "addition", "digits": [2]})
    drawn = [p.id for step in range(10) for p in step_problems(tiny.task(), made, step)]
    assert len(set(drawn)) > 30


def group(policy: Policy, *texts: str, question: str = "1+2") -> list[Rollout]:
    return [tiny.rollout(policy, question, text) for text in texts]


def step(policy: Policy, memory: Memory, rollouts: list[Rollout], rewards: list[list[float]], **options: Any) -> Any:
    learner = Learner(policy, TRICE(), tiny.optimizer(policy), 0.7)
    return make_memory_rows(rollouts, rewards, TRICE(), memory, learner, max_new_tokens=8, budget=60, **options)


def test_the_last_right_response_is_remembered_and_learned_from_until_another_is_right() -> None:
    policy, memory = tiny.policy(), Memory()
    a, b, c = group(policy, "3", "33", "5")
    rows, metrics = step(policy, memory, [a, b, c], [[1.0, 1.0, 0.0]])
    assert [r.token_ids for r in rows.rollouts] == [r.token_ids for r in (a, b, c)]
    assert list(rows.advantages) == [1 - 0.5, 2 - 0.5, -1.0]
    assert metrics == {"remembered_problems": 1, "remembered_share": 0}

    d, e, f = group(policy, "7", "8", "333")
    rows, metrics = step(policy, memory, [d, e, f], [[0.0, 0.0, 1.0]])
    assert [r.token_ids for r in rows.rollouts] == [r.token_ids for r in (d, e, f, b)]
    assert list(rows.advantages) == [-0.5, -0.5, 1.0, 2.0]
    assert list(rows.weights) == [1 / (3 * 8)] * 4
    assert metrics == {"remembered_problems": 1, "remembered_share": 2 / 3}

    rows, metrics = step(policy, memory, [d, e], [[0.0, 0.0]])
    assert [r.token_ids for r in rows.rollouts] == [f.token_ids]  # wrong ones say nothing where no other is right
    assert list(rows.advantages) == [2.0]
    assert metrics == {"remembered_problems": 1, "remembered_share": 1}


def test_each_problem_has_a_memory_of_its_own_and_one_never_solved_has_none() -> None:
    policy, memory = tiny.policy(), Memory()
    step(policy, memory, group(policy, "3", "4"), [[1.0, 0.0]])
    other = group(policy, "5", "6", question="2+2")
    rows, metrics = step(policy, memory, [*group(policy, "7", "8"), *other], [[0.0, 0.0], [0.0, 0.0]])
    assert [r.prompt.problem.id for r in rows.rollouts] == ["1+2"]
    assert metrics == {"remembered_problems": 1, "remembered_share": 0.5}


def test_a_nearly_right_answer_is_not_remembered() -> None:
    policy, memory = tiny.policy(), Memory()
    step(policy, memory, group(policy, "3", "4"), [[0.9, 0.0]])
    assert len(memory) == 0


def test_remembered_responses_have_the_logprobs_of_the_policy_as_it_is_and_no_kl() -> None:
    policy, memory = tiny.policy(), Memory()
    [right, *_] = group(policy, "3")
    step(policy, memory, [right, *group(policy, "4")], [[1.0, 0.0]])
    reference = Reference.of(policy)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.2)
    rows, _ = step(policy, memory, group(policy, "7", "8"), [[0.0, 0.0]], reference=reference, keep_all=True)
    ids = torch.tensor([[*right.prompt.token_ids, *right.token_ids]])
    logits = policy.model(ids).logits[0].detach().double() / 0.7
    start = len(right.prompt.token_ids)
    expected = [float(logits[t - 1].log_softmax(-1)[ids[0, t]]) for t in range(start, ids.shape[1])]
    assert rows.rollouts[-1].token_ids == right.token_ids
    assert rows.rollouts[-1].logprobs == pytest.approx(expected, abs=1e-5)
    assert rows.reference_logprobs is not None
    assert rows.reference_logprobs[-1].tolist() == pytest.approx(expected, abs=1e-5)
    said = rows.reference_logprobs[0].tolist()
    assert said != pytest.approx(list(rows.rollouts[0].logprobs), abs=0.1)


def test_memory_comes_back_from_a_checkpoint_and_the_steps_after_it_are_the_same(tmp_path: Path) -> None:
    policy, memory, again = tiny.policy(), Memory(), Memory()
    step(policy, memory, group(policy, "3", "4"), [[1.0, 1.0]])
    torch.save(memory.state(), tmp_path / "memory.pt")
    again.load(torch.load(tmp_path / "memory.pt", weights_only=True))
    later = group(policy, "5", "6")
    for mine, theirs in zip(
        step(policy, memory, later, [[0.0, 1.0]]), step(policy, again, later, [[0.0, 1.0]]), strict=True
    ):
        assert mine == theirs
    assert memory.state() == again.state()


@pytest.mark.parametrize("stopped_at", [1, 4])
def test_a_run_taken_up_again_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    lenient(monkeypatch)
    whole = trainer(tmp_path / "whole", recipe())
    whole.train()
    whole.run.close()
    found = records(tmp_path / "whole")
    assert sum(record["remembered_share"] > 0 for record in found[stopped_at:]) >= 1  # it did learn from memory

    step_of = RLTrainer.guarded_step

    def dies(self: RLTrainer, bar: Any, stop: Any) -> None:
        if self.state.step == stopped_at:
            raise KeyboardInterrupt
        step_of(self, bar, stop)

    with monkeypatch.context() as patch:
        patch.setattr(RLTrainer, "guarded_step", dies)
        first = trainer(tmp_path / "cut", recipe())
        with pytest.raises(KeyboardInterrupt):
            first.train()
        first.run.close()
    second = trainer(tmp_path / "cut", recipe())
    assert second.state.step == stopped_at
    second.train()
    second.run.close()
    assert records(tmp_path / "cut") == found
    assert second.policy.trainable_hash() == whole.policy.trainable_hash() != tiny.policy().trainable_hash()
    states = [
        torch.load(tmp_path / f / "checkpoints" / str(STEPS) / STATE, weights_only=True) for f in ("cut", "whole")
    ]
    assert states[0]["parts"]["memory"] == states[1]["parts"]["memory"]
    assert states[0]["parts"]["memory"]["responses"]


def test_a_whole_run_proves_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lenient(monkeypatch)
    monkeypatch.setattr("latentpad.experiments.run.check_recipe", lambda _: [])
    made = recipe(training={"steps": 3, "checkpoint_every": 3}, rl={"kl": {"coef": 0.01}})
    run_recipe(made, tmp_path / "run")
    found = records(tmp_path / "run")
    assert 0 < found[-1]["remembered_problems"] <= 2
    assert all(r["mismatch_kl"] < 1e-9 for r in found)
    assert any(r["grad_norm"] > 0 for r in found)


def test_all_proofs_hold_remember_nothing_and_see_a_sign_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path / "run", recipe())
    before = made.policy.trainable_hash()
    assert len(list(prove_all(made))) == 7
    assert made.policy.trainable_hash() == before
    assert made.memory is not None
    assert len(made.memory) == 0
    loss = TRICE.token_loss

    def planted(self: TRICE, **tensors: torch.Tensor) -> TokenLoss:
        return TokenLoss(-loss(self, **tensors).loss, {})

    monkeypatch.setattr(TRICE, "token_loss", planted)
    with pytest.raises(ProofFailed, match="a sign is wrong"):
        prove_start(made)
