"""Pretraining's loss is the mean over tokens, however the step is cut."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from latentpad.recipe.load import content_key
from latentpad.recipe.method_schema import PretrainSection
from latentpad.recipe.schema import Component, TrainingSection
from latentpad.tasks import build_task
from latentpad.training.corpus import corpus_document
from latentpad.training.optimizer import learning_rate_scale
from latentpad.training.pretrain import _accumulate, _document_ids, pretrain
from latentpad.training.processes.world import ALONE
from latentpad.training.run_folder import RunFolder
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy


def documents(policy: Policy) -> list[list[int]]:
    texts = ["1+2=3", "12+34=46", "5+6=<scratch>5+6,C:0</scratch>11", "9+9=18"]
    return [_document_ids(policy, text) for text in texts]


def test_a_document_ends_with_the_stop_token() -> None:
    policy = tiny.policy()
    ids = _document_ids(policy, "1+2=3")
    assert policy.tokenizer.decode(ids) == "1+2=3<eos>"


def test_the_gradient_does_not_depend_on_the_split() -> None:
    policy = tiny.policy(double=True)
    rows = documents(policy)
    found = {}
    for budget in (1, 20, 40, 1000):
        loss = _accumulate(policy, tiny.optimizer(policy), rows, budget, ALONE)
        found[budget] = loss, tiny.gradients(policy)
    expected_loss, expected = found.pop(1000)
    for loss, gradients in found.values():
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        for name, value in expected.items():
            torch.testing.assert_close(gradients[name], value, rtol=1e-11, atol=1e-14)


def test_loss_and_gradient_are_those_of_transformers() -> None:
    policy = tiny.policy(double=True)
    rows = documents(policy)
    loss = _accumulate(policy, tiny.optimizer(policy), rows, 40, ALONE)
    ours = tiny.gradients(policy)
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    out = policy.model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    out.loss.backward()
    # transformers takes the cross entropy in float32
    assert loss == pytest.approx(out.loss.item(), rel=1e-6)
    for name, value in tiny.gradients(policy).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7)


def test_counters_and_loss_of_a_run(tmp_path: Path) -> None:
    recipe, policy = tiny.recipe("pretrain"), tiny.policy()
    run = RunFolder(tmp_path, recipe, content_key(recipe))
    pretrain(recipe, run, policy, tiny.task(), tiny.COMPACT)
    run.close()
    assert recipe.pretrain is not None
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [record["samples"] for record in records] == [8 * step for step in range(1, 9)]
    first = [corpus_document(tiny.task(), tiny.COMPACT, recipe.pretrain, 0, 0, i) for i in range(8)]
    fresh = tiny.policy()
    rows = [_document_ids(fresh, d.prompt + d.response) for d in first]
    assert records[0]["tokens_trained"] == sum(len(row) - 1 for row in rows)
    assert records[0]["loss"] == pytest.approx(_accumulate(fresh, tiny.optimizer(fresh), rows, 10_000, ALONE), rel=1e-5)
    assert records[-1]["loss"] < records[0]["loss"]


@pytest.mark.parametrize(("share", "worked"), [(0.0, 0), (1.0, 200), (0.2, 40)])
def test_the_corpus_shows_as_many_worked_scratchpads_as_the_recipe_says(share: float, worked: int) -> None:
    shown = [document(PretrainSection(documents_per_step=1, scratchpad_share=share), i) for i in range(200)]
    assert sum("<scratch>" in text for text in shown) == pytest.approx(worked, abs=15 if 0 < share < 1 else 0)


HINTED = build_task(Component(name="addition", digits=[1, 2, 3], spelling="hints"))


def document(section: PretrainSection, index: int) -> str:
    shown = corpus_document(HINTED, tiny.COMPACT, section, 0, 3, index)
    return shown.prompt + shown.response


def test_each_kind_of_document_comes_from_the_cells_that_it_may_show() -> None:
    section = PretrainSection(
        documents_per_step=1,
        scratchpad_share=0.3,
        primitive_share=0.3,
        cells=["digits=2", "digits=3"],
        worked_cells=["digits=1"],
    )
    shown = [document(section, i) for i in range(300)]
    worked = [text for text in shown if "<scratch>" in text]
    primitives = [text for text in shown if "=" not in text]
    answers = [text for text in shown if text not in worked and text not in primitives]
    for kind, share in ((worked, 0.3), (primitives, 0.3), (answers, 0.4)):
        assert len(kind) == pytest.approx(300 * share, abs=40)
    assert {digits_of(text) for text in worked} == {1}
    assert {digits_of(text) for text in answers} == {2, 3}


def digits_of(text: str) -> int:
    return max(sum(c.isdigit() for c in number) for number in text.partition("=")[0].split("+"))


def test_a_corpus_without_the_new_keys_is_what_it_always_was() -> None:
    """Worked or not, and which problem, by the same draws: published bases can be made again."""
    section = PretrainSection(documents_per_step=1, scratchpad_share=0.2)
    shown = [corpus_document(tiny.task(), tiny.COMPACT, section, 0, 3, i) for i in range(5)]
    assert [d.prompt + d.response for d in shown] == [
        "0+0=<scratch>0+0,C:0\n,0C:0\n00</scratch>0",
        "17+46=63",
        "0+1=<scratch>0+1,C:0\n,1C:0\n01</scratch>1",
        "3+6=9",
        "98+81=<scratch>98+81,C:0\n9+8,9C:0\n,79C:1\n179</scratch>179",
    ]


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [
        # 2 of 6 steps are warm-up: 1/3, 2/3 on the way to 1; progress in the other 4 is 0, 1/4, 1/2, 3/4
        ("constant", [1 / 3, 2 / 3, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1 / 3, 2 / 3, 1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ],
)
def test_the_learning_rate_is_a_function_of_the_step(schedule: str, scales: list[float]) -> None:
    training = TrainingSection(steps=6, learning_rate=0.1, schedule=schedule, warmup_steps=2, checkpoint_every=1)
    assert [learning_rate_scale(training, step) for step in range(6)] == pytest.approx(scales)


def test_the_optimizer_takes_the_learning_rate_of_the_step() -> None:
    policy = tiny.policy()
    made = tiny.optimizer(policy, steps=10, schedule="linear", learning_rate=0.01)
    weight = policy.model.lm_head.weight
    before = weight.detach().clone()
    policy.model(input_ids=torch.tensor([[4, 5]]), labels=torch.tensor([[4, 5]])).loss.backward()
    _, rate = made.step(5)
    assert rate == pytest.approx(0.005)
    # the first step of Adam moves every weight with a gradient by the learning rate
    assert float((weight.detach() - before).abs().max()) == pytest.approx(0.005, rel=1e-3)


def test_gradients_are_clipped_to_the_norm_of_the_recipe() -> None:
    policy = tiny.policy()
    made = tiny.optimizer(policy, max_grad_norm=1e-12, learning_rate=0.01)
    before = {name: p.detach().clone() for name, p in policy.trainable().items()}
    policy.model(input_ids=torch.tensor([[4, 5]]), labels=torch.tensor([[4, 5]])).loss.backward()
    norm, _ = made.step(0)
    assert norm > 0.01
    # 1e-12 is far below Adam's epsilon of 1e-8: a step of at most 1e-4 of the learning rate
    assert all(float((p.detach() - before[name]).abs().max()) < 1e-6 for name, p in policy.trainable().items())


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    policy = tiny.policy()
    made = tiny.optimizer(policy, matrix_learning_rate=0.02)
    names = {id(p): name for name, p in policy.model.named_parameters()}
    adamw, muon = (
        {names[id(p)] for group in part.param_groups for p in group["params"]}
        for part, _ in made.replicated._optimizers
    )
    assert len(muon) == 2 * 7
    assert all("proj" in name for name in muon)
    assert adamw == set(names.values()) - muon
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= adamw
