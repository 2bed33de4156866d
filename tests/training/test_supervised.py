"""The supervised arms: TRL trains on the response and its stop token, and we count what it trains on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.models.policy import load_policy
from latentpad.recipe.load import content_key
from latentpad.training.run_folder import RunFolder
from latentpad.training.supervised import micro_batch_rows, supervised_examples, train_supervised
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe

trl = pytest.importorskip("trl")


def recipe(**changes: Any) -> Recipe:
    return tiny.recipe(
        "supervised", training={"steps": 2, "schedule": "linear", **changes.pop("training", {})}, **changes
    )


def train(made: Recipe, folder: Path, policy: Policy) -> list[dict[str, Any]]:
    run = RunFolder(folder, made, content_key(made))
    train_supervised(made, run, policy, tiny.task(), tiny.COMPACT)
    run.close()
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def sequences(made: Recipe, policy: Policy) -> list[tuple[list[int], list[int]]]:
    """Prompt and response ids of each example in order, the stop token at the response's end."""
    encode = policy.tokenizer.encode
    examples = supervised_examples(made, tiny.task(), tiny.COMPACT)
    return [(encode(e.prompt), [*encode(e.response), policy.stop_ids[0]]) for e in examples]


@pytest.mark.parametrize("target", ["answer", "scratchpad"])
def test_labels_are_the_response_and_its_stop_token_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    made, policy, seen = recipe(supervised={"target": target}), tiny.policy(), []

    def look(self: Any, **_: Any) -> None:
        seen.extend(self.get_train_dataloader())

    monkeypatch.setattr(trl.SFTTrainer, "train", look)
    run = RunFolder(tmp_path, made, content_key(made))
    train_supervised(made, run, policy, tiny.task(), tiny.COMPACT)
    rows = [
        (i, m, label)
        for b in seen
        for i, m, label in zip(b["input_ids"], b["attention_mask"], b["labels"], strict=True)
    ]
    expected = sequences(made, policy)
    assert len(rows) == len(expected) == 8
    for (ids, mask, labels), (prompt, response) in zip(rows, expected, strict=True):
        real = mask.bool()
        assert ids[real].tolist() == prompt + response
        assert labels[real].tolist() == [-100] * len(prompt) + response
        assert set(labels[~real].tolist()) <= {-100}
    assert any("<scratch>" in policy.tokenizer.decode(ids) for ids, _, _ in rows) == (target == "scratchpad")


def nll(policy: Policy, pairs: list[tuple[list[int], list[int]]]) -> float:
    """The mean negative log likelihood of all response tokens, one sequence at a time."""
    total, count = 0.0, 0
    for prompt, response in pairs:
        with torch.no_grad():
            logprobs = policy.model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
        total -= sum(float(logprobs[at, token]) for at, token in zip(places, response, strict=True))
        count += len(response)
    return total / count


@pytest.mark.parametrize("micro_batch_tokens", [1, 60, 4096])
def test_the_loss_is_the_mean_over_response_tokens_of_the_step_however_it_is_cut(
    tmp_path: Path, micro_batch_tokens: int
) -> None:
    made, policy = recipe(training={"micro_batch_tokens": micro_batch_tokens}), tiny.policy()
    expected = nll(policy, sequences(made, policy)[:4])
    assert len({len(response) for _, response in sequences(made, policy)[:4]}) > 1
    assert train(made, tmp_path, policy)[0]["loss"] == pytest.approx(expected, rel=1e-3)


def test_weights_do_not_depend_on_the_cut(tmp_path: Path) -> None:
    ends = []
    for budget in (1, 4096):
        policy = tiny.policy()
        train(recipe(training={"micro_batch_tokens": budget}), tmp_path / str(budget), policy)
        ends.append({name: p.detach().clone() for name, p in policy.trainable().items()})
    start = tiny.policy().trainable()
    for name, weight in ends[0].items():
        moved = (weight - start[name].detach()).abs().max()
        assert float((weight - ends[1][name]).abs().max()) <= 0.01 * float(moved)


def test_counters_count_what_was_trained_on(tmp_path: Path) -> None:
    made, policy = recipe(), tiny.policy()
    lengths = [len(response) for _, response in sequences(made, policy)]
    records = train(made, tmp_path, policy)
    assert [record["samples"] for record in records] == [4, 8]
    assert [record["tokens_trained"] for record in records] == [sum(lengths[:4]), sum(lengths)]
    assert [record["tokens_generated"] for record in records] == [0, 0]
    assert [record["learning_rate"] for record in records] == pytest.approx([0.003, 0.0015])


def test_an_example_is_never_shown_twice_on_purpose() -> None:
    made = recipe(task={"digits": [2]}, training={"steps": 10})
    task = tiny.build_task(made.task)
    examples = supervised_examples(made, task, tiny.COMPACT)
    assert len(examples) == 40
    assert len({e.prompt for e in examples}) > 35


def test_only_the_adapter_is_trained_with_lora(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path / "base")
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    train(recipe(), tmp_path / "run", policy)
    changed = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(policy.trainable())
    assert all("lora_" in name for name in changed)


def test_the_checkpoint_keeps_every_stop_token_of_the_base(tmp_path: Path) -> None:
    tiny.policy().save(tmp_path / "base")
    file = tmp_path / "base" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": [5, 1]}))
    policy = load_policy(tmp_path / "base")
    assert policy.stop_ids == (5, 1)
    train(recipe(), tmp_path / "run", policy)
    assert set(load_policy(tmp_path / "run" / "checkpoints" / "2").stop_ids) == {1, 5}


@pytest.mark.parametrize(
    ("examples", "longest", "budget", "rows"), [(64, 100, 1700, 16), (6, 10, 45, 3), (7, 10, 69, 1)]
)
def test_rows_of_a_micro_batch_divide_the_step(examples: int, longest: int, budget: int, rows: int) -> None:
    assert micro_batch_rows(examples, longest, budget) == rows
