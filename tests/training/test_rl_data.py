"""What an RL arm learns from: sampled tokens and final answers, never a gold scratchpad."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import Needs
from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.signed import Signed
from latentpad.models.policy import Policy
from latentpad.recipe.errors import MachineError
from latentpad.recipe.load import content_key
from latentpad.rollout.local import LocalEngine
from latentpad.tasks.addition import Addition
from latentpad.training import collect, rl
from latentpad.training.collate import Rows
from latentpad.training.collect import graded_groups, step_problems, step_requests
from latentpad.training.episodes import grade_rollouts, into_groups
from latentpad.training.learner import Learner
from latentpad.training.rl import RLTrainer
from latentpad.training.rows import Observed, make_rows
from latentpad.training.run_folder import RunFolder
from latentpad.training.signal import training_signal
from latentpad.types import Batch, Episode, FinishReason, Group, Problem, Prompt, Rollout
from reward import Outcome, Reward
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import Request, Sampling

FIELDS = {
    Problem: "id task split cell question answer",
    Prompt: "problem text token_ids",
    Rollout: "prompt token_ids logprobs finish_reason policy_version adapter_hash seed",
    Episode: "rollout response reward",
    Reward: "value outcome detail",
    Group: "prompt episodes",
    Batch: "token_ids attention_mask position_ids response_mask rollout_logprobs advantages weights "
    "reference_logprobs values returns",
}


@pytest.mark.parametrize("kind", FIELDS)
def test_no_value_that_flows_has_a_place_for_a_gold_scratchpad(kind: type) -> None:
    assert " ".join(f.name for f in fields(kind)) == FIELDS[kind]


class ScriptedEngine:
    """The seam for fakes: writes given responses, in turn."""

    def __init__(self, policy: Policy, responses: Sequence[str]) -> None:
        self.policy, self.responses, self.written = policy, responses, []

    def sync(self, version: int, adapter_hash: str) -> None:
        self.version, self.adapter_hash = version, adapter_hash

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        texts = [self.responses[i % len(self.responses)] for i in range(len(requests))]
        ids = [(*self.policy.tokenizer.encode(text), self.policy.stop_ids[0]) for text in texts]
        rollouts = [
            Rollout(r.prompt, i, (-2.0,) * len(i), FinishReason.STOP, self.version, self.adapter_hash, r.seed)
            for r, i in zip(requests, ids, strict=True)
        ]
        self.written += rollouts
        return rollouts


def train(recipe: Recipe, folder: Path, policy: Policy, engine: Any = None) -> None:
    run = RunFolder(folder, recipe, content_key(recipe))
    engine = engine or LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
    RLTrainer(recipe, run, policy, engine, tiny.task(), tiny.COMPACT, GRPO()).train()
    run.close()


def short(**changes: Any) -> Recipe:
    training = {"steps": 3, "checkpoint_every": 3, "learning_rate": 0.01, "micro_batch_tokens": 128}
    return tiny.recipe("rl", training=training, **changes)


def test_an_rl_run_never_asks_for_a_gold_scratchpad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, policy = short(), tiny.policy()
    answers = [str(n) for n in range(19)]
    train(recipe, tmp_path / "with", policy, ScriptedEngine(policy, answers))

    def refuse(_task: Addition, _problem: Problem) -> str:
        raise AssertionError("an RL run asked for a gold scratchpad")

    monkeypatch.setattr(Addition, "gold_scratchpad", refuse)
    other = tiny.policy()
    train(recipe, tmp_path / "without", other, ScriptedEngine(other, answers))
    assert other.trainable_hash() == policy.trainable_hash() != tiny.policy().trainable_hash()


def test_the_reward_sees_the_final_answer_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(*args: Any, **options: Any) -> Reward:
        seen.append((args[0], *args[2:], options))
        return Reward.of(Outcome.CORRECT if len(seen) % 3 else Outcome.WRONG)

    monkeypatch.setattr("reward.integer.grade_integer", spy)
    policy = tiny.policy()
    train(short(), tmp_path, policy, ScriptedEngine(policy, ["<scratch>1+2,C:0</scratch>3", "12"]))
    assert len(seen) == 3 * 16
    assert [entry[0] for entry in seen[:4]] == ["3", "12", "3", "12"]
    assert all(entry[1:] == ({"spaced_digits": False},) for entry in seen)


def test_every_trained_token_is_one_that_the_engine_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Batch] = []
    step = Learner.step

    def spy(self: Learner, batches: Sequence[Batch], number: int, kl_coef: float) -> dict[str, float]:
        trained.extend(batches)
        return step(self, batches, number, kl_coef)

    monkeypatch.setattr(Learner, "step", spy)
    policy = tiny.policy()
    engine = ScriptedEngine(policy, ["<scratch>1+2,C:0</scratch>3", "12", "7", "5", "9"])
    train(short(), tmp_path, policy, engine)

    written = {(r.prompt.token_ids, r.token_ids) for r in engine.written}
    found = set()
    for batch in trained:
        width = batch.response_mask.shape[1]
        for ids, mask, response in zip(batch.token_ids, batch.attention_mask, batch.response_mask, strict=True):
            prompt = tuple(ids[:-width][mask[:-width].bool()].tolist())
            found.add((prompt, tuple(ids[-width:][response].tolist())))
            assert int(mask.sum()) == len(prompt) + int(response.sum())
    assert found
    assert found <= written


def groups(policy: Policy, rewards: Sequence[Sequence[float]]) -> list[Group]:
    """Groups with these rewards, responses of different lengths."""
    made = []
    for number, row in enumerate(rewards):
        rollouts = [tiny.rollout(policy, f"{number}+1", "7" * (i + number)) for i in range(len(row))]
        verdicts = [Reward(value, Outcome.CORRECT if value else Outcome.WRONG) for value in row]
        episodes = tuple(Episode(r, "", v) for r, v in zip(rollouts, verdicts, strict=True))
        made.append(Group(rollouts[0].prompt, episodes))
    return made


REWARDS = [[1.0, 0.0, 0.0, 0.0], [0.0] * 4, [1.0] * 4, [0.0, 1.0, 1.0, 0.0]]


def rows(rewards: list[list[float]], algorithm: Any, **options: Any) -> Rows:
    """What is learned from groups with these rewards."""
    rollouts = [episode.rollout for group in groups(tiny.policy(), rewards) for episode in group.episodes]
    return make_rows(rollouts, rewards, algorithm, Observed(None, None), max_new_tokens=16, **options)


@pytest.mark.parametrize("keep_all", [False, True])
def test_groups_without_a_signal_are_left_out_unless_something_else_gives_them_a_gradient(keep_all: bool) -> None:
    made = rows(REWARDS, GRPO(), keep_all=keep_all)
    assert len(made.rollouts) == (16 if keep_all else 8)
    # responses of 1 to 4, 2 to 5, 3 to 6 and 4 to 7 tokens, the stop token counted
    assert sum(len(r.token_ids) for r in made.rollouts) == (10 + 14 + 18 + 22 if keep_all else 10 + 22)


def test_weights_count_the_rollouts_that_were_left_out() -> None:
    for batch in rows(REWARDS, GRPO(aggregation="token")).batches(60):
        assert torch.equal(batch.weights, batch.response_mask / torch.tensor(64.0))


def test_where_no_group_has_a_signal_there_is_nothing_to_learn_from() -> None:
    assert rows([[0.0] * 4, [1.0] * 4], GRPO()).batches(60) == []


def test_a_group_of_wrong_answers_alone_teaches_where_wrong_ones_are_penalised() -> None:
    made = rows([[0.0] * 4, [1.0] * 4], Signed(right=0.0))
    assert list(made.advantages) == [-1.0] * 4


def test_the_random_signal_deals_out_the_same_rewards_always_the_same_way() -> None:
    made = groups(tiny.policy(), REWARDS)
    recipe = short(rl={"signal": "random"})
    dealt = training_signal(made, tiny.policy(), tiny.task(), recipe, Needs(), 0)
    assert [len(row) for row in dealt] == [4, 4, 4, 4]
    assert Counter(v for row in dealt for v in row) == {0.0: 9, 1.0: 7}
    assert dealt == training_signal(made, tiny.policy(), tiny.task(), recipe, Needs(), 0)
    assert dealt not in (REWARDS, training_signal(made, tiny.policy(), tiny.task(), recipe, Needs(), 1))
    assert dealt != training_signal(made, tiny.policy(), tiny.task(), recipe.model_copy(update={"seed": 1}), Needs(), 0)
    assert training_signal(made, tiny.policy(), tiny.task(), short(), Needs(), 0) == REWARDS


def test_by_vote_a_wrong_answer_that_all_agree_on_is_learned_and_climbs(tmp_path: Path) -> None:
    """Three of four say 7, which is never right: the vote pays them, and the ladder takes it for success."""
    ladder = {"rungs": ["digits=1", "digits=2"], "promote_at": 0.7, "window": 8}
    frontiers = {}
    for signal in ("vote", "answer"):
        policy, folder = tiny.policy(), tmp_path / signal
        recipe = short(rl={"signal": signal, "ladder": ladder, "prompts_per_step": 4, "group_size": 4})
        train(recipe, folder, policy, ScriptedEngine(policy, ["77777", "77777", "77777", "88888"]))
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [record["reward"] for record in records] == [0.0, 0.0, 0.0]  # what is reported is the grader's verdict
        frontiers[signal] = [record["frontier"] for record in records]
        assert (policy.trainable_hash() == tiny.policy().trainable_hash()) is (signal == "answer")
    assert frontiers == {"vote": [0, 1, 1], "answer": [0, 0, 0]}


def test_the_random_signal_does_not_touch_the_reward_that_is_reported() -> None:
    made = groups(tiny.policy(), REWARDS)
    dealt = training_signal(made, tiny.policy(), tiny.task(), short(rl={"signal": "random"}), Needs(), 0)
    assert rl.step_metrics(tiny.policy(), made, dealt)["reward"] == 7 / 16
    assert [[e.reward.value for e in group.episodes] for group in made] == REWARDS


def test_the_problems_of_a_step_are_the_same_in_every_arm_and_new_in_every_step_and_seed() -> None:
    task, recipe = tiny.task(), short()
    arms = [short(rl={"signal": "random"}), short(scratchpad="empty"), short(name="other", algorithm={"scale": "none"})]
    drawn = step_problems(task, recipe, 0)
    assert all(step_problems(task, arm, 0) == drawn for arm in arms)
    assert step_problems(task, recipe, 1) != drawn
    assert step_problems(task, recipe.model_copy(update={"seed": 1}), 0) != drawn
    assert {p.split for p in drawn} == {"train"}
    assert [p.cell for p in drawn] == ["digits=1", "digits=2"] * 2


def test_every_rollout_has_a_seed_of_its_own_that_names_what_it_draws() -> None:
    policy, recipe = tiny.policy(), short()
    problems = step_problems(tiny.task(), recipe, 0)

    def seeds(recipe: Recipe, step: int) -> list[int]:
        return [r.seed for r in step_requests(policy, tiny.COMPACT, problems, recipe, step)]

    drawn = seeds(recipe, 0) + seeds(recipe, 1) + seeds(recipe.model_copy(update={"seed": 1}), 0)
    assert len(set(drawn)) == len(drawn) == 3 * 16
    assert seeds(recipe, 0) == drawn[:16]


def test_a_stop_token_is_no_part_of_the_text_and_a_cut_response_is_graded_as_truncated() -> None:
    policy = tiny.policy()
    right, cut = tiny.rollout(policy, "1+2", "3"), tiny.rollout(policy, "1+2", "3", stop=False)
    asked = replace(right.prompt, problem=replace(right.prompt.problem, answer="3"))
    episodes = grade_rollouts(policy, tiny.task(), [replace(right, prompt=asked), replace(cut, prompt=asked)])
    assert [e.response for e in episodes] == ["3", "3"]
    assert [e.reward.outcome for e in episodes] == [Outcome.CORRECT, Outcome.TRUNCATED]
    assert [len(group.episodes) for group in into_groups(episodes, 2)] == [2]


def _group_with(outcomes: list[Outcome]) -> Group:
    made = tiny.policy()
    rollouts = [tiny.rollout(made, "1+2", "3") for _ in outcomes]
    episodes = tuple(Episode(r, "3", Reward.of(o, "boom")) for r, o in zip(rollouts, outcomes, strict=True))
    return Group(rollouts[0].prompt, episodes)


def test_a_group_in_which_the_grader_broke_is_not_learned_from() -> None:
    good = _group_with([Outcome.CORRECT, Outcome.WRONG] * 50)
    broken = _group_with([Outcome.CORRECT, Outcome.GRADER_FAILED])
    assert graded_groups([good, broken], 0) == ([good], 1 / 102)


def test_a_step_whose_grader_breaks_too_often_is_refused() -> None:
    broken = _group_with([Outcome.CORRECT, Outcome.GRADER_FAILED])
    line = r"^step 7: the grader failed on 1 of 2 rollouts \(50.0%, allowed 1%\), first at problem 1\+2: boom$"
    with pytest.raises(MachineError, match=line):
        graded_groups([broken], 6)


def test_a_step_of_which_no_group_is_left_is_refused_at_any_rate() -> None:
    with pytest.raises(MachineError, match="failed on 1 of 200 rollouts"):
        graded_groups([_group_with([Outcome.CORRECT] * 199 + [Outcome.GRADER_FAILED])], 0)


def test_the_share_of_broken_verdicts_is_a_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MAX_GRADER_FAILURES", 0.5)
    calls = iter(range(1000))

    def breaks_at_first(*_args: Any, **_options: Any) -> Reward:
        if next(calls) == 0:
            raise OSError("boom")
        return Reward.of(Outcome.WRONG)

    monkeypatch.setattr("reward.integer.grade_integer", breaks_at_first)
    policy = tiny.policy()
    train(short(), tmp_path, policy, ScriptedEngine(policy, ["3"]))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["grader_failed"] for line in lines] == [1 / 16, 0.0, 0.0]


def test_a_cell_named_more_often_comes_up_more_often() -> None:
    rl = {"prompts_per_step": 6, "group_size": 2, "cells": ["digits=2", "digits=2", "digits=1"]}
    recipe = tiny.recipe("rl", rl=rl, task={"name": "addition", "digits": [1, 2]})
    cells = [problem.cell for problem in step_problems(tiny.task(), recipe, 0)]
    assert cells == ["digits=2", "digits=2", "digits=1"] * 2
