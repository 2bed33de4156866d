"""The supervised arms: TRL trains on the response and its stop token, and we count what it trains on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models

from latentpad.formats import get_format
from latentpad.models.policy import load_policy
from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key
from latentpad.recipe.schema import Component
from latentpad.tasks import build_task, worked
from latentpad.training.corpus import Example, filler_example
from latentpad.training.examples import supervised_examples
from latentpad.training.filler import check_filler
from latentpad.training.run_folder import RunFolder
from latentpad.training.supervised import micro_batch_rows, train_supervised
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.formats import Format
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
    examples = supervised_examples(made, tiny.task(), tiny.COMPACT, policy.tokenizer)
    return [(encode(e.prompt), [*encode(e.response), policy.stop_ids[0]]) for e in examples]


TARGETS: dict[str, dict[str, Any]] = {
    "answer": {"target": "answer"},
    "scratchpad": {"target": "scratchpad"},
    "filler": {"target": "filler", "filler": ":"},
    "mixture": {"target": "mixture", "rationale_share": 0.5},
}


@pytest.mark.parametrize("target", TARGETS)
def test_labels_are_the_response_and_its_stop_token_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    made, policy, seen = recipe(supervised=TARGETS[target]), tiny.policy(), []

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
    assert any("<scratch>" in policy.tokenizer.decode(ids) for ids, _, _ in rows) == (target != "answer")


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
    task = build_task(made.task)
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


def shown(target: str, text_format: Format = tiny.COMPACT, tokenizer: Any = None, **changes: Any) -> list[Example]:
    made = recipe(supervised=TARGETS[target] | changes, training={"steps": 8})
    return supervised_examples(made, tiny.task(), text_format, tokenizer or tiny.policy().tokenizer)


def test_every_target_is_taught_on_the_same_problems_in_the_same_order() -> None:
    prompts = {target: [e.prompt for e in shown(target)] for target in TARGETS}
    assert prompts["answer"] == prompts["scratchpad"] == prompts["filler"] == prompts["mixture"]
    assert len(set(prompts["answer"])) > 20


def test_fillers_take_the_place_of_the_scratchpad_token_for_token() -> None:
    policy = tiny.policy()
    for taught, filled, answer in zip(shown("scratchpad"), shown("filler"), shown("answer"), strict=True):
        pad = taught.response.removeprefix("<scratch>").partition("</scratch>")[0]
        assert len(pad) > 10
        assert filled.response == f"<scratch>{':' * len(pad)}</scratch>{answer.response}"
        ours, theirs = (policy.tokenizer.encode(e.response) for e in (taught, filled))
        assert len(ours) == len(theirs)


def merging_tokenizer(*pairs: str) -> Tokenizer:
    """Characters as tokens, but each of these pairs is one."""
    alphabet = sorted({*tiny.task().alphabet, *tiny.COMPACT.alphabet, ";"})
    words = ["<pad>", "<eos>", "<scratch>", "</scratch>", *alphabet, *pairs]
    merges = [(pair[0], pair[1]) for pair in pairs]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    tokenizer.add_tokens(["<scratch>", "</scratch>"])
    return tokenizer


def test_fillers_are_counted_in_tokens_not_in_characters() -> None:
    tokenizer = merging_tokenizer("1+", "C:")
    problem = tiny.task().parse("1+2")
    gold = worked(tiny.task()).gold_scratchpad(problem)
    assert gold == "1+2,C:0\n,3C:0\n03"  # 1+ 2 , C: 0 ... : 16 characters, 3 of them the second of a pair
    made = filler_example(tiny.task(), tiny.COMPACT, problem, ";", tokenizer)
    assert made.response == f"<scratch>{';' * 13}</scratch>3"


def test_a_filler_that_is_joined_with_what_stands_beside_it_is_made_up_for() -> None:
    tokenizer, problem = merging_tokenizer("\n;", "\n0"), tiny.task().parse("1+2")
    gold = worked(tiny.task()).gold_scratchpad(problem)  # 15 tokens; 16 fillers are 15 with the line break before them
    made = filler_example(tiny.task(), get_format("lines"), problem, ";", tokenizer)
    assert made.response == f"<scratch>\n{';' * 16}\n</scratch>\n3"
    assert len(tokenizer.encode(made.response).ids) == len(
        tokenizer.encode(get_format("lines").response("3", gold)).ids
    )


def test_a_filler_must_be_one_token_that_copies_do_not_join() -> None:
    tokenizer = merging_tokenizer("::")
    check_filler(tokenizer, ";", "supervised.filler")
    with pytest.raises(RecipeError, match=r"^supervised\.filler: got ':'; the tokenizer joins copies of it.*' :'$"):
        check_filler(tokenizer, ":", "supervised.filler")
    for wrong in ("...", "", "?", "C:"):
        with pytest.raises(RecipeError, match=r"exactly one token of the model's tokenizer, such as '\+', ',', ':'"):
            check_filler(tokenizer, wrong, "supervised.filler")
    for tag in ("<scratch>", "</scratch>", "<eos>"):
        with pytest.raises(RecipeError, match="expected an ordinary token"):
            check_filler(tokenizer, tag, "supervised.filler")


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"target": "filler", "filler": "."}, "supervised.filler: got '.'; expected exactly one token of the model's"),
        ({"target": "filler", "filler": "</scratch>"}, "supervised.filler: got '</scratch>', which ends or opens"),
    ],
)
def test_a_filler_is_checked_before_anything_is_loaded(section: dict[str, Any], line: str) -> None:
    check_recipe(recipe(supervised=TARGETS["filler"]))
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe(supervised=section))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", ["filler", "mixture"])
def test_a_task_without_scratchpads_has_none_to_fill_or_to_mix(target: str, tmp_path: Path) -> None:
    rows = "".join(f'{{"question": "q{i}", "answer": "{i}"}}\n' for i in range(60))
    (tmp_path / "data.jsonl").write_text(rows)
    task = Component.model_validate({"name": "jsonl", "path": str(tmp_path / "data.jsonl")})
    made = recipe(supervised=TARGETS[target]).model_copy(update={"task": task})
    with pytest.raises(RecipeError, match=r"^task JsonLines has no gold scratchpads to teach"):
        check_recipe(made)


@pytest.mark.parametrize(
    ("examples", "longest", "budget", "rows"), [(64, 100, 1700, 16), (6, 10, 45, 3), (7, 10, 69, 1)]
)
def test_rows_of_a_micro_batch_divide_the_step(examples: int, longest: int, budget: int, rows: int) -> None:
    assert micro_batch_rows(examples, longest, budget) == rows
