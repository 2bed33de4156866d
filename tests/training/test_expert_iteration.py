"""Expert iteration: what it samples, keeps and learns from, and that its rounds begin where they should."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.progress import stage
from latentpad.recipe.errors import MachineError, RecipeError, Stopped
from latentpad.recipe.load import content_key
from latentpad.rollout import Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.tasks.addition import Addition
from latentpad.training import right_responses
from latentpad.training.expert_iteration import CurrentRound, ExpertIteration
from latentpad.training.interrupt import Stop
from latentpad.training.learner import Learner
from latentpad.training.processes.world import World
from latentpad.training.right_responses import RightResponse, RightResponses, keep_distinct
from latentpad.training.run_folder import RunFolder
from latentpad.types import FinishReason, Rollout
from reward import Outcome, Reward
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import Request, RolloutEngine
    from latentpad.types import Batch

TRAINING = {"steps": 6, "checkpoint_every": 6, "learning_rate": 0.01, "micro_batch_tokens": 128}


class Scripted:
    """Answers each question as `write` says, told the prompt and the number of the try."""

    def __init__(self, policy: Policy, write: Callable[[str, int], str], *, stop: bool = True) -> None:
        self.policy, self.write, self.stop = policy, write, stop
        self.written: list[Rollout] = []
        self.synced: list[tuple[int, str]] = []

    def sync(self, version: int, adapter_hash: str) -> None:
        self.synced.append((version, adapter_hash))
        self.version, self.adapter_hash = version, adapter_hash

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Rollout]:
        found, ends = [], (self.policy.stop_ids[0],) if self.stop else ()
        reason = FinishReason.STOP if self.stop else FinishReason.LENGTH
        for at, request in enumerate(requests):
            ids = (*self.policy.tokenizer.encode(self.write(request.prompt.text, at)), *ends)
            found.append(
                Rollout(request.prompt, ids, (-2.0,) * len(ids), reason, self.version, self.adapter_hash, request.seed)
            )
        self.written += found
        return found


def right(prompt: str, _: int = 0) -> str:
    return str(sum(map(int, prompt.removesuffix("=").split("+"))))


def mixed(prompt: str, at: int) -> str:
    """Of four tries: right, right after a scratchpad, wrong, and the first once more."""
    answer = right(prompt)
    return [answer, f"<scratch>7</scratch>{answer}", "9999", answer][at % 4]


def recipe(**changes: Any) -> Recipe:
    return tiny.recipe("expert_iteration", **({"training": TRAINING} | changes))


def loop(made: Recipe, folder: Path, policy: Policy, engine: RolloutEngine) -> ExpertIteration:
    run = RunFolder(folder, made, content_key(made))
    return ExpertIteration(made, run, policy, engine, tiny.task(), tiny.COMPACT)


def train(made: Recipe, folder: Path, policy: Policy, engine: RolloutEngine) -> list[dict[str, Any]]:
    loop(made, folder, policy, engine).train()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@dataclass
class Spy:
    """What every step was given."""

    batches: list[list[Batch]] = field(default_factory=list)

    def rows(self, policy: Policy) -> list[tuple[str, str]]:
        """Prompts and responses of all steps as text."""
        found = []
        for batch in [batch for batches in self.batches for batch in batches]:
            width = batch.response_mask.shape[1]
            for ids, mask, response in zip(batch.token_ids, batch.attention_mask, batch.response_mask, strict=True):
                prompt, written = ids[:-width][mask[:-width].bool()], ids[-width:][response]
                found.append((policy.tokenizer.decode(prompt), policy.tokenizer.decode(written)))
        return found


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    seen, step = Spy(), Learner.step

    def learn(self: Learner, batches: Sequence[Batch], number: int, kl_coef: float = 0.0) -> dict[str, float]:
        seen.batches.append(list(batches))
        return step(self, batches, number, kl_coef)

    monkeypatch.setattr(Learner, "step", learn)
    return seen


# What is learned from.


def test_every_trained_token_was_sampled_in_a_right_response(tmp_path: Path, spy: Spy) -> None:
    policy = tiny.policy()
    engine = Scripted(policy, mixed)
    records = train(recipe(), tmp_path, policy, engine)

    end = policy.tokenizer.decode([policy.stop_ids[0]])
    written = {(r.prompt.text, policy.tokenizer.decode(r.token_ids)) for r in engine.written}
    trained = spy.rows(policy)
    assert len(trained) == 6 * 4
    assert set(trained) <= written
    assert all(text.endswith(right(prompt) + end) for prompt, text in trained)
    assert any("<scratch>" in text for _, text in trained)
    assert any("<scratch>" not in text for _, text in trained)
    assert records[-1]["tokens_trained"] == sum(int(b.response_mask.sum()) for bs in spy.batches for b in bs)


def test_it_never_asks_for_a_gold_scratchpad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_task: Addition, _problem: object) -> str:
        raise AssertionError("a gold scratchpad was asked for")

    monkeypatch.setattr(Addition, "gold_scratchpad", refuse)
    policy = tiny.policy()
    hint = {"hint": "{question}={answer}"}
    train(recipe(expert_iteration=hint), tmp_path, policy, Scripted(policy, mixed))
    assert policy.trainable_hash() != tiny.policy().trainable_hash()


def test_what_was_cut_is_never_kept_even_if_its_answer_is_right(tmp_path: Path) -> None:
    policy = tiny.policy()
    line = r"^expert_iteration: round 1 kept no right response of 32; the base must solve some problems: "
    with pytest.raises(RecipeError, match=line):
        train(recipe(), tmp_path, policy, Scripted(policy, right, stop=False))


def test_of_a_problem_the_first_distinct_responses_are_kept() -> None:
    def response(problem: str, *ids: int) -> RightResponse:
        return RightResponse(0, problem, ids, hinted=False, has_scratchpad=False)

    a1, a2, a3, b1 = response("a", 1), response("a", 2), response("a", 3), response("b", 1)
    found = [a1, b1, replace(a1, place=5), a2, a3]
    assert keep_distinct(found, 2) == [a1, b1, a2]
    assert keep_distinct(found, 1) == [a1, b1]
    assert keep_distinct(found, None) == [a1, b1, a2, a3]


def test_a_round_tells_what_it_sampled(tmp_path: Path) -> None:
    """Eight problems, of which some may be the same, four tries: three right, two of them equal."""
    policy = tiny.policy()
    records = train(recipe(), tmp_path, policy, Scripted(policy, mixed))
    problems = len({right_responses.problem_at(tiny.task(), recipe(), 0, place).id for place in range(8)})
    first = {name: value for name, value in records[0].items() if name != "timing"}
    assert [first[n] for n in ("round", "reward", "wrong", "solved", "kept")] == [1, 0.75, 0.25, 1.0, 2 * problems]
    assert first["scratchpad_rate"] == 0.5
    assert first["samples"] == 32
    assert [record["round"] for record in records] == [1, 1, 1, 2, 2, 2]
    assert all(record[n] == first[n] for record in records[:3] for n in ("reward", "kept", "scratchpad_rate"))
    assert records[-1]["samples"] == 64
    assert not [name for name in first if "ratio" in name or "kl" in name]


def test_each_time_round_every_kept_response_is_learned_from_once_in_another_order(tmp_path: Path) -> None:
    policy = tiny.policy()
    made = loop(recipe(expert_iteration={"rows_per_step": 5}), tmp_path, policy, Scripted(policy, right))
    kept = [RightResponse(place, str(place), (place + 3,), hinted=False, has_scratchpad=False) for place in range(7)]
    made.round.kept = kept
    stream = [rollout.token_ids[0] - 3 for at in range(7) for rollout in made.rows(0, at).rollouts]
    rounds = [stream[start : start + 7] for start in range(0, 35, 7)]
    assert all(sorted(order) == list(range(7)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 5


def test_every_token_of_a_step_counts_alike_and_all_together_one(tmp_path: Path) -> None:
    policy = tiny.policy()
    made = loop(recipe(), tmp_path, policy, Scripted(policy, right))
    lengths = [3, 1, 4, 2]
    made.round.kept = [
        RightResponse(i, "", (5,) * n, hinted=False, has_scratchpad=False) for i, n in enumerate(lengths)
    ]
    rows = made.rows(0, 0)
    assert list(rows.weights) == [0.1] * 4
    loss = made.learner.accumulate(rows.batches(10_000))["loss"]
    with torch.no_grad():
        logprobs = [float(made.learner.forward(rows.take([i]).collate()).logprobs.sum()) for i in range(4)]
    assert loss == pytest.approx(-sum(logprobs) / 10, rel=1e-5)


def test_the_micro_batch_does_not_change_the_gradient(tmp_path: Path) -> None:
    found = []
    for budget in (1, 10_000):
        policy = tiny.policy(double=True)
        made = loop(
            recipe(training={**TRAINING, "micro_batch_tokens": budget}),
            tmp_path / str(budget),
            policy,
            Scripted(policy, mixed),
        )
        made.begin_round(0, *quiet())
        with tiny.double():
            made.learner.accumulate(made.rows(0, 0).batches(budget))
        found.append(tiny.gradients(policy))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-9, atol=1e-12)


def quiet() -> tuple[Any, Stop]:
    """A bar that nobody sees, and a user who lets it run."""
    with stage("test", 1) as bar:
        return bar, Stop()


# The hint.


def by_the_hint(prompt: str, _: int) -> str:
    """Right only where the answer is shown."""
    shown = prompt.split("=")
    return f"<scratch>7</scratch>{shown[1]}" if len(shown) > 2 else "9999"


HINT = {"hint": "{question}={answer}", "rounds": 1}


def test_what_the_hint_solves_is_learned_as_an_answer_to_the_question_without_it(tmp_path: Path, spy: Spy) -> None:
    policy = tiny.policy()
    engine = Scripted(policy, by_the_hint)
    records = train(recipe(expert_iteration=HINT), tmp_path, policy, engine)
    assert [r.prompt.text.count("=") for r in engine.written] == [1] * 32 + [2] * 32
    assert len({r.seed for r in engine.written}) == 64
    for prompt, text in spy.rows(policy):
        assert prompt.count("=") == 1
        assert right(prompt) in text.removeprefix("<scratch>7</scratch>")
    assert [records[0][name] for name in ("reward", "solved", "hinted_solved", "samples")] == [0.0, 0.0, 1.0, 64]


def test_a_problem_that_was_solved_is_not_asked_again(tmp_path: Path) -> None:
    policy = tiny.policy()

    def write(prompt: str, at: int) -> str:
        return mixed(prompt, at) if prompt.count("=") == 1 and int(prompt[0]) < 5 else by_the_hint(prompt, at)

    engine = Scripted(policy, write)
    records = train(recipe(expert_iteration=HINT), tmp_path, policy, engine)
    again = [r.prompt for r in engine.written if r.prompt.text.count("=") == 2]
    assert again
    assert all(int(prompt.text[0]) >= 5 for prompt in again)
    assert 0 < records[0]["solved"] < 1
    assert records[0]["solved"] + records[0]["hinted_solved"] == 1.0
    assert records[0]["samples"] == 32 + len(again)
    assert "hinted_solved" not in train(recipe(), tmp_path / "without", tiny.policy(), Scripted(policy, mixed))[0]


# Rounds.


def test_each_round_warms_up_and_decays_anew(tmp_path: Path) -> None:
    policy = tiny.policy()
    training = {**TRAINING, "learning_rate": 0.012, "schedule": "linear", "warmup_steps": 1}
    records = train(recipe(training=training), tmp_path, policy, Scripted(policy, right))
    # (0 + 1) / (1 + 1), then 1 - 0 / 2 and 1 - 1 / 2
    assert [record["learning_rate"] for record in records] == pytest.approx([0.006, 0.012, 0.006] * 2)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("restart", ["base", "previous"])
def test_a_round_begins_at_the_base_or_where_the_last_ended_and_with_a_new_optimizer(
    tmp_path: Path, restart: str, lora: bool
) -> None:
    policy = tiny.lora_policy(tmp_path / "model") if lora else tiny.policy()
    start = policy.trainable_hash()
    made = loop(recipe(expert_iteration={"restart": restart}), tmp_path / "run", policy, Scripted(policy, right))
    fresh = made.optimizer.state()
    made.begin_round(0, *quiet())
    for at in range(3):
        made.step(0, at)
    ended = policy.trainable_hash()
    assert made.optimizer.state()["optimizers"][0]["state"]
    made.begin_round(1, *quiet())
    assert ended != start
    assert policy.trainable_hash() == (start if restart == "base" else ended)
    assert made.optimizer.state() == fresh


def test_a_round_is_sampled_by_what_the_last_one_learned(tmp_path: Path) -> None:
    """Not by the base that it is then fine-tuned from."""
    policy = tiny.policy()
    engine = Scripted(policy, right)
    train(recipe(), tmp_path, policy, engine)
    assert [version for version, _ in engine.synced] == [0, 3]
    assert engine.synced[0][1] == tiny.policy().trainable_hash() != engine.synced[1][1]


def test_problems_and_seeds_are_new_in_every_round(tmp_path: Path) -> None:
    policy = tiny.policy()
    engine = Scripted(policy, right)
    train(recipe(task={"name": "addition", "digits": [1, 2]}), tmp_path, policy, engine)
    first, second = ([r.prompt.problem.id for r in engine.written[i : i + 32]] for i in (0, 32))
    assert first != second
    assert len({r.seed for r in engine.written}) == 64
    assert {r.prompt.problem.split for r in engine.written} == {"train"}
    assert [r.prompt.problem.cell for r in engine.written[:8]] == ["digits=1"] * 4 + ["digits=2"] * 4


# Graders, processes, stops.


def test_a_round_whose_grader_breaks_too_often_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny.policy()
    calls = iter(range(1000))

    def breaks_at_first(*_args: Any, **_options: Any) -> Reward:
        if next(calls) == 0:
            raise OSError("boom")
        return Reward.of(Outcome.CORRECT)

    monkeypatch.setattr("reward.integer.grade_integer", breaks_at_first)
    line = r"^round 1: the grader failed on 1 of 32 rollouts \(3.1%, allowed 1%\), first at problem .*boom"
    with pytest.raises(MachineError, match=line):
        train(recipe(), tmp_path, policy, Scripted(policy, right))


class OneOfTwo(World):
    """The first of two processes, which does the work of both and is given back what both would give."""

    def spread(self, items: Sequence[Any], work: Callable[[Any], Any]) -> list[Any]:
        mine = [[work(item) for item in items[rank::2]] for rank in range(2)]
        return [mine[i % 2][i // 2] for i in range(len(items))]


def test_two_processes_find_what_one_does() -> None:
    """Seven chunks of real samples, shared out among two."""
    made, policy = recipe(rollout={"chunk_size": 5}), tiny.policy()
    engine = LocalEngine(policy, chunk_size=5)
    parts = (made, policy, engine, tiny.task(), tiny.COMPACT, Sampling(1.0, 6))
    alone = RightResponses(*parts)._ask(0, _places(made), None, lambda _: None)
    both = RightResponses(*parts, OneOfTwo(0, 2))._ask(0, _places(made), None, lambda _: None)
    assert alone == both
    assert both.sampled == 32


def _places(made: Recipe) -> list[tuple[int, Any]]:
    return [(place, right_responses.problem_at(tiny.task(), made, 0, place)) for place in range(8)]


def test_asked_to_stop_while_it_samples_it_leaves_a_checkpoint_and_samples_anew(tmp_path: Path) -> None:
    policy = tiny.policy()
    expected = train(recipe(), tmp_path / "whole", policy, Scripted(policy, mixed))

    stopped, stop = tiny.policy(), Stop()
    made = loop(recipe(), tmp_path / "run", stopped, Scripted(stopped, mixed))
    stop.asked = True
    with pytest.raises(Stopped, match=r"^stopped while sampling, round 1: 0 of 32 responses; .* checkpoint of step 0$"):
        made.begin_round(0, quiet()[0], stop)
    again = tiny.policy()
    records = train(recipe(), tmp_path / "run", again, Scripted(again, mixed))
    assert again.trainable_hash() == policy.trainable_hash()
    assert [r["loss"] for r in records] == [r["loss"] for r in expected]


def test_the_part_of_a_checkpoint_gives_back_what_was_kept(tmp_path: Path) -> None:
    kept = [
        RightResponse(3, "a", (1, 2, 3), hinted=False, has_scratchpad=True),
        RightResponse(0, "b", (4,), hinted=True, has_scratchpad=False),
    ]
    for part in (CurrentRound(2, kept, {"reward": 0.5}), CurrentRound(0, [], {})):
        torch.save(part.state(), tmp_path / "part.pt")
        found = CurrentRound(7, kept, {})
        found.load(torch.load(tmp_path / "part.pt", weights_only=True))
        assert found == part


def test_start_up_proofs_hold_and_a_sampler_at_another_temperature_is_found_out(tmp_path: Path) -> None:
    policy = tiny.policy()
    made = loop(recipe(), tmp_path, policy, LocalEngine(policy, chunk_size=16))
    assert [line.partition(":")[0] for line in made.prove_start()] == ["ratio is 1", "the stop token is in the loss"]
    made.responses = replace(made.responses, sampling=Sampling(0.7, 8))
    with pytest.raises(MachineError, match="sampler and learner disagree"):
        made.prove_start()
