"""Rows that end in the gold answer: where a scratchpad ends, token by token, and what is scored, learned and logged."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from math import exp, log1p
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import build_algorithm
from latentpad.algorithms.answer_tokens import AnswerTokens
from latentpad.algorithms.latro import LaTRO
from latentpad.algorithms.verifree import VeriFree
from latentpad.experiments.run import run_recipe
from latentpad.models.reference import Reference
from latentpad.models.tokenizer import PAD, fast_tokenizer
from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key
from latentpad.rollout.local import LocalEngine
from latentpad.tasks.addition import Addition
from latentpad.training import proofs
from latentpad.training.answer_rows import AnswerReader, Answers, make_answer_rows
from latentpad.training.forward import response_logprobs
from latentpad.training.learner import Learner
from latentpad.training.proofs import ProofFailed, prove_all
from latentpad.training.rl import RLTrainer
from latentpad.training.run_folder import RunFolder
from latentpad.training.split import split_response, with_answer
from latentpad.types import FinishReason, Prompt, Rollout, TokenLoss
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe

EOS = "<eos>"


@cache
def characters() -> Policy:
    return tiny.policy(double=True)


@cache
def byte_pairs() -> Policy:
    """Its merges run across the ends of tags and of characters; there is no token for a tag."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, special_tokens=[PAD, EOS])
    texts = [f"<scratch>1+{n}\u20ac</scratch>{n}\n" for n in range(10)] * 20
    tokenizer.train_from_iterator(texts, trainer)
    fast = fast_tokenizer(tokenizer)
    return replace(characters(), tokenizer=fast, stop_ids=(fast.eos_token_id,))


def written(policy: Policy, text: str, *, stop: bool = True) -> Rollout:
    return sampled(policy, tuple(policy.tokenizer.encode(text, add_special_tokens=False)), stop=stop)


def sampled(policy: Policy, ids: tuple[int, ...], *, stop: bool = True) -> Rollout:
    ids += policy.stop_ids[:1] if stop else ()
    reason = FinishReason.STOP if stop else FinishReason.LENGTH
    return Rollout(
        Prompt(tiny.prompt(characters(), "1+2").problem, "", (3,)), ids, (-2.0,) * len(ids), reason, 0, "", 0
    )


def text_of(policy: Policy, ids: tuple[int, ...]) -> str:
    text: str = policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


@pytest.mark.parametrize("policy", [characters, byte_pairs], ids=["characters", "byte pairs"])
@pytest.mark.parametrize(
    ("response", "line_break", "scratchpad", "reference"),
    [
        ("<scratch>1+2</scratch>3", "", "<scratch>1+2</scratch>", "<scratch>1+2</scratch>0"),
        ("<scratch>1\n</scratch>\n3", "\n", "<scratch>1\n</scratch>\n", "<scratch>1\n</scratch>\n0"),
        ("<scratch>1</scratch>3", "\n", "<scratch>1</scratch>", "<scratch>1</scratch>\n0"),
        ("3", "", "", "0"),
        ("", "\n", "", "0"),
        ("7<scratch>1</scratch>", "", "7<scratch>1</scratch>", "7<scratch>1</scratch>0"),
        ("<scratch></scratch>1</scratch>3", "", "<scratch></scratch>1</scratch>", "<scratch></scratch>1</scratch>0"),
        ("<scratch>1+2", "", "<scratch>1+2", "<scratch>1+2</scratch>0"),
        ("<scratch>1</scratch>2<scratch>3", "\n", "<scratch>1</scratch>2<scratch>3", None),
    ],
)
@pytest.mark.parametrize("stop", [True, False])
def test_a_scratchpad_ends_with_the_last_closing_tag_and_the_line_break_after_it(
    policy: Any, response: str, line_break: str, scratchpad: str, reference: str | None, stop: bool
) -> None:
    made: Policy = policy()
    rollout = written(made, response, stop=stop)
    split = split_response(made, rollout, line_break)
    kept = text_of(made, rollout.token_ids[: split.tokens])
    assert scratchpad.startswith(kept)
    assert kept == scratchpad or policy is byte_pairs
    row = with_answer(made, rollout, split, "0")
    assert row.token_ids[: split.tokens] == rollout.token_ids[: split.tokens]
    assert (row.token_ids[-1], row.finish_reason) == (made.stop_ids[0], FinishReason.STOP)
    assert text_of(made, row.token_ids[:-1]) == (reference or f"{scratchpad}</scratch>{line_break}0")
    assert row.logprobs == (*rollout.logprobs[: split.tokens], *[0.0] * (len(row.token_ids) - split.tokens))


def test_a_token_across_the_end_of_the_scratchpad_is_written_anew_with_the_answer() -> None:
    policy = byte_pairs()
    rollout = written(policy, "<scratch>1+5\u20ac</scratch>5\n")
    split = split_response(policy, rollout, "")
    assert split.tail  # the vocabulary was made so that a token reaches into the answer
    across = text_of(policy, rollout.token_ids[split.tokens : split.tokens + 1])
    assert across.startswith(split.tail)
    assert len(across) > len(split.tail)
    row = with_answer(policy, rollout, split, "88")
    assert text_of(policy, row.token_ids[:-1]) == "<scratch>1+5\u20ac</scratch>88"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_tokens_are_sampled_as_many_as_lie_in_the_scratchpad_are_kept(seed: int) -> None:
    policy, rng = byte_pairs(), Random(f"tokens/{seed}")
    vocabulary = [i for i in range(len(policy.tokenizer)) if i not in (*policy.stop_ids, policy.tokenizer.pad_token_id)]
    close = tuple(policy.tokenizer.encode("</scratch>"))
    straddled = 0
    for _ in range(40):
        pieces = [tuple(rng.choices(vocabulary, k=rng.randrange(6))) for _ in range(2)]
        rollout = sampled(policy, (*pieces[0], *close, *pieces[1]))
        text = text_of(policy, rollout.token_ids[:-1])
        scratchpad = text[: text.rindex("</scratch>") + len("</scratch>")]
        split = split_response(policy, rollout, "")
        if split.tail == "</scratch>":  # opened again and not closed
            continue
        kept = text_of(policy, rollout.token_ids[: split.tokens])
        more = text_of(policy, rollout.token_ids[: split.tokens + 1])
        assert kept + split.tail == scratchpad
        assert split.tokens == len(rollout.token_ids) - 1 or not scratchpad.startswith(more)
        straddled += bool(split.tail)
        row = with_answer(policy, rollout, split, "1+2")
        assert text_of(policy, row.token_ids[:-1]) == scratchpad + "1+2"
    assert straddled < 40


def reader(target: Any = "reference", reference: Reference | None = None, *, opens: bool = True) -> AnswerReader:
    return AnswerReader(tiny.task(), tiny.COMPACT, target, opens, reference, 60)


def learner(policy: Policy, algorithm: Any = None, **options: Any) -> Learner:
    return Learner(policy, algorithm or VeriFree(), tiny.optimizer(policy), **{"temperature": 0.7, **options})


RESPONSES = ["<scratch>1+2,C:0</scratch>3", "<scratch></scratch>9", "12", "<scratch>1+2"]


def rollouts(policy: Policy) -> list[Rollout]:
    """A group of each kind; the gold answer that their problem states is 0."""
    return [tiny.rollout(policy, "1+2", text, stop=text != "<scratch>1+2") for text in RESPONSES]


def likelihood(policy: Policy, before: str, answer: str) -> float:
    """log pi(answer and stop | before) at temperature 0.7, token by token from the model's own logits."""
    ids = [*policy.tokenizer.encode(before + answer), policy.stop_ids[0]]
    start = len(policy.tokenizer.encode(before))
    logits = policy.model(torch.tensor([ids])).logits[0].detach() / 0.7
    return sum(float(logits[t - 1].log_softmax(-1)[ids[t]]) for t in range(start, len(ids)))


def log_chance(policy: Policy, before: str, token: str) -> float:
    """Of one token at temperature 0.7."""
    ids = policy.tokenizer.encode(before)
    logits = policy.model(torch.tensor([ids])).logits[0, -1].detach() / 0.7
    return float(logits.log_softmax(-1)[policy.tokenizer.encode(token)[0]])


def test_gold_answers_are_scored_after_the_scratchpads_as_they_were_sampled() -> None:
    policy = characters()
    found = reader().read(rollouts(policy), learner(policy))
    prompt = rollouts(policy)[0].prompt.text
    pads = ["<scratch>1+2,C:0</scratch>", "<scratch></scratch>", "", "<scratch>1+2"]
    answers = ["0", "0", "0", "</scratch>0"]
    expected = [likelihood(policy, prompt + pad, answer) for pad, answer in zip(pads, answers, strict=True)]
    none = log1p(-exp(log_chance(policy, prompt, "<scratch>")))
    bare = likelihood(policy, prompt, "0") - none  # given that none was opened
    expected[2] -= none
    assert none < -1e-3
    assert [opening is not None for opening in found.openings] == [False, False, True, False]
    assert found.logprobs == pytest.approx(expected, rel=1e-6)
    assert found.bare_logprobs == pytest.approx([bare] * 4, rel=1e-6)
    assert found.metrics() == pytest.approx(
        {"answer_logprob": sum(expected) / 4, "scratchpad_lift": sum(expected) / 4 - bare}, rel=1e-6
    )
    expected[2] += none  # what is trained is the tokens as they are
    for row, n, logprob in zip(found.rollouts, found.scratchpads, expected, strict=True):
        assert row.logprobs[:n] == (-2.0,) * n  # the sampler's
        assert sum(row.logprobs[n:]) == pytest.approx(logprob, rel=1e-6)


def test_where_no_scratchpad_can_be_opened_none_is_decided() -> None:
    policy = characters()
    [plain] = [tiny.rollout(policy, "1+2", "12")]
    found = reader(opens=False).read([plain], learner(policy))
    assert found.openings == [None]
    assert found.logprobs == pytest.approx([likelihood(policy, plain.prompt.text, "0")], rel=1e-6)
    assert found.metrics()["scratchpad_lift"] == 0


def test_sampled_answers_stay_as_they_are_and_nothing_is_scored() -> None:
    policy = characters()
    found = reader("sampled").read(rollouts(policy), learner(policy))
    assert found.rollouts == rollouts(policy)
    assert found.scratchpads == [len(r.token_ids) - k for r, k in zip(found.rollouts, (2, 2, 3, 0), strict=True)]
    assert (found.logprobs, found.metrics()) == (None, {})


def test_the_gradient_is_that_of_the_coefficients_written_out() -> None:
    policy, signal = characters(), [[0.0, 1.0, 0.0, 0.0]]
    made = learner(policy, LaTRO())
    answers = reader().read(rollouts(policy), made)
    assert answers.logprobs is not None
    with tiny.double():
        rows = make_answer_rows(answers, signal, LaTRO(), max_new_tokens=32)
        splits = {budget: rows.batches(budget) for budget in (1, 60, 10_000)}
    found = {}
    for budget, batches in splits.items():
        metrics = made.accumulate(batches)
        found[budget] = tiny.gradients(policy)
    assert metrics["ratio_high"] > 1.1  # the sampler's logprobs of -2 are made up
    total = torch.zeros((), dtype=torch.float64)
    for row, n, logprob in zip(answers.rollouts, answers.scratchpads, answers.logprobs, strict=True):
        with tiny.double():
            own = response_logprobs(policy.model, tiny.collate([row], [1.0], [1.0]), temperature=0.7)[0]
        lead = logprob - (sum(answers.logprobs) - logprob) / 3
        total = total - (lead * own[:n].sum() + own[n:].sum()) / (4 * 32)
        if n == 0:  # log(1 - q) counts as a scratchpad's token, and the answer is given it
            prompt = torch.tensor([row.prompt.token_ids])
            chances = (policy.model(prompt).logits[0, -1] / 0.7).softmax(-1)
            opened = chances[policy.tokenizer.encode("<scratch>")[0]]
            total = total - (lead - 1) * (1 - opened).log() / (4 * 32)
    total.backward()  # type: ignore[no-untyped-call]
    for name, value in tiny.gradients(policy).items():
        for gradients in found.values():
            torch.testing.assert_close(gradients[name], value, rtol=1e-6, atol=1e-10)


def test_rows_without_a_coefficient_are_left_out_and_the_rest_keep_their_weight() -> None:
    answers = Answers(rollouts(characters()), [9, 2, 0, 4], [None] * 4)
    rows = make_answer_rows(answers, [[0.0, 1.0, 0.0, 1.0]], AnswerTokens("sampled"), max_new_tokens=32)
    assert rows.rollouts == [answers.rollouts[i] for i in (0, 2)]
    assert rows.weights == [1 / (4 * 32)] * 2
    assert [torch.as_tensor(row).tolist() for row in rows.advantages] == [[0.0] * 9 + [-1.0] * 2, [-1.0] * 3]
    kept = make_answer_rows(answers, [[0.0, 1.0, 0.0, 1.0]], AnswerTokens(), max_new_tokens=32, keep_all=True)
    assert len(kept.rollouts) == 4


def test_a_cut_scratchpad_without_an_answer_is_no_wrong_answer() -> None:
    answers = Answers(rollouts(characters())[3:], [4], [None])
    assert make_answer_rows(answers, [[0.0]], AnswerTokens("sampled"), max_new_tokens=32).rollouts == []


def test_kl_is_of_what_was_sampled_and_only_scratchpads_pay_for_it() -> None:
    policy = tiny.policy(double=True)
    reference = Reference.of(policy)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(1.2)
    found = reader(reference=reference).read(rollouts(policy), learner(policy))
    assert found.reference_logprobs is not None
    costs = []
    for row, n, said in zip(found.rollouts, found.scratchpads, found.reference_logprobs, strict=True):
        assert said[n:].tolist() == pytest.approx(list(row.logprobs[n:]))
        costs.append(0.3 * (sum(row.logprobs[:n]) - float(said[:n].sum())))
    opening = found.openings[2]
    assert opening is not None
    assert opening.reference_none is not None
    costs[2] = 0.3 * (opening.none - opening.reference_none)
    assert abs(costs[2]) > 1e-4
    with reference.model():
        before = log_chance(policy, rollouts(policy)[0].prompt.text, "<scratch>")
    assert opening.reference_none == pytest.approx(log1p(-exp(before)), rel=1e-5)
    assert min(abs(costs[0]), abs(costs[3])) > 0.1
    with tiny.double():
        rows = make_answer_rows(found, [[0.0] * 4], LaTRO(), max_new_tokens=32, reward_kl=0.3)
    assert found.logprobs is not None
    earned = [logprob - cost for logprob, cost in zip(found.logprobs, costs, strict=True)]
    lead = torch.as_tensor(rows.advantages[0])[0]
    assert float(lead) == pytest.approx(earned[0] - sum(earned[1:]) / 3)


OBJECTIVES: list[dict[str, Any]] = [
    {"name": "verifree"},
    {"name": "latro"},
    {"name": "jepo"},
    {"name": "answer_tokens"},
    {"name": "answer_tokens", "only": "all"},
    {"name": "answer_tokens", "target": "sampled"},
]
TRAINING = {"steps": 2, "checkpoint_every": 2, "learning_rate": 0.01, "micro_batch_tokens": 128}
SHORT = {"max_new_tokens": 12, "chunk_size": 16}


def recipe(algorithm: dict[str, Any], **changes: Any) -> Recipe:
    evaluation = {"problems": 2, "max_new_tokens": 12}
    sections = {"training": TRAINING, "rollout": SHORT, "evaluation": evaluation, **changes}
    return tiny.recipe("rl", algorithm=algorithm, **sections)


def trainer(folder: Path, made: Recipe, policy: Policy) -> RLTrainer:
    assert made.algorithm is not None
    run, engine = RunFolder(folder, made, content_key(made)), LocalEngine(policy, chunk_size=16)
    return RLTrainer(made, run, policy, engine, tiny.task(), tiny.COMPACT, build_algorithm(made.algorithm))


@pytest.mark.parametrize("algorithm", OBJECTIVES, ids=str)
def test_a_whole_run_checks_proves_trains_and_never_asks_for_a_gold_scratchpad(
    tmp_path: Path, algorithm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(algorithm, rl={"kl": {"coef": 0.01}} if algorithm["name"] == "latro" else {})
    assert check_recipe(recipe(algorithm, rollout={"max_new_tokens": 32, "chunk_size": 16}, evaluation={}))

    def refuse(_task: Addition, _problem: Any) -> str:
        raise AssertionError("an RL run asked for a gold scratchpad")

    monkeypatch.setattr(Addition, "gold_scratchpad", refuse)
    monkeypatch.setattr("latentpad.experiments.run.check_recipe", lambda _: [])  # which asks how long they are
    run_recipe(made, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 2
    assert all(record["grad_norm"] > 0 for record in records)
    assert all(record["mismatch_kl"] < 1e-9 and record["ratio_high"] < 1.001 for record in records)
    gold = algorithm.get("target") != "sampled"
    assert all(("answer_logprob" in record, "scratchpad_lift" in record) == (gold, gold) for record in records)
    assert (tmp_path / "run" / "proofs.txt").read_text().splitlines()[-1].startswith("a small step makes ")


@pytest.mark.parametrize("algorithm", OBJECTIVES[::5], ids=str)
def test_all_proofs_hold_with_lora_and_leave_the_policy_as_it_was(tmp_path: Path, algorithm: dict[str, Any]) -> None:
    policy = tiny.lora_policy(tmp_path / "base")
    before = policy.trainable_hash()
    made = trainer(tmp_path / "run", recipe(algorithm), policy)
    lines = list(prove_all(made))
    assert len(lines) == 7
    assert policy.trainable_hash() == before
    assert all(p.grad is None for p in policy.model.parameters())


@pytest.mark.parametrize("algorithm", OBJECTIVES, ids=str)
@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_a_sign_that_is_wrong_or_a_gradient_of_nothing_fails_the_proof(
    tmp_path: Path, algorithm: dict[str, Any], factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, recipe(algorithm), tiny.policy())
    loss = type(made.algorithm).token_loss

    def planted(self: Any, **tensors: torch.Tensor) -> TokenLoss:
        found = loss(self, **tensors)
        return replace(found, loss=found.loss * factor)

    monkeypatch.setattr(type(made.algorithm), "token_loss", planted)
    with pytest.raises(ProofFailed, match="a sign is wrong"):
        proofs.prove_start(made)


def test_scratchpads_that_are_paid_the_wrong_way_fail_the_proof_though_answers_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, recipe({"name": "verifree"}), tiny.policy())
    right = VeriFree.coefficients
    monkeypatch.setattr(
        VeriFree, "coefficients", lambda *a: [[(-pad, answer) for pad, answer in group] for group in right(*a)]
    )
    with pytest.raises(ProofFailed, match="does not make scratchpads before likely gold answers likelier"):
        proofs.prove_start(made)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rl": {"epochs": 2}}, "rl.epochs: got 2; 'verifree' holds for one update on the policy that sampled: set it"),
        ({"rl": {"minibatches": 2}}, "rl.minibatches: got 2; "),
        ({"rollout": {"max_new_tokens": 32, "max_staleness": 1}}, "rollout.max_staleness: got 1; "),
        ({"rollout": {"max_new_tokens": 32, "correction": "masked"}}, "rollout.correction: 'verifree' has no weights"),
        ({"rl": {"half_length": 4}}, "rl.half_length: 'verifree' knows no price of length"),
        ({"rl": {"signal": "random"}}, "rl.signal: got 'random'; expected 'answer'"),
        ({"rl": {"signal": "vote"}}, "rl.signal: got 'vote'; expected 'answer'"),
        ({"rl": {"kl": {"coef": 0.1, "place": "reward"}}}, "rl.kl.place: got 'reward'; 'verifree' has no reward"),
        ({"rollout": {"max_new_tokens": 122}}, "set it to 120 or less"),
        ({"algorithm": {"name": "trice"}}, "rl.problems: 'trice' learns from remembered responses"),
        (
            {"algorithm": {"name": "answer_tokens", "target": "sampled", "only": "all"}},
            "'all' would make right answers",
        ),
        ({"algorithm": {"name": "verifree", "clip_high": 0.2}}, "clip_high"),
    ],
    ids=str,
)
def test_what_would_have_no_effect_or_another_is_refused(changes: dict[str, Any], line: str) -> None:
    sections: dict[str, Any] = {"algorithm": {"name": "verifree"}, **changes}
    with pytest.raises(RecipeError) as error:
        check_recipe(tiny.recipe("rl", **sections))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_latro_takes_its_kl_from_the_reward_and_all_take_it_in_the_loss() -> None:
    check_recipe(tiny.recipe("rl", algorithm={"name": "latro"}, rl={"kl": {"coef": 0.1, "place": "reward"}}))
    check_recipe(tiny.recipe("rl", algorithm={"name": "jepo"}, rl={"kl": {"coef": 0.1}}))


def test_the_longest_gold_answer_after_the_longest_scratchpad_just_fits_the_model() -> None:
    """120 tokens after a prompt of 4 (9+9=), then </scratch>18 and a stop token are all that its 128 positions hold."""
    assert check_recipe(tiny.recipe("rl", algorithm={"name": "verifree"}, rollout={"max_new_tokens": 120}))
    sampled = {"name": "answer_tokens", "target": "sampled"}
    assert check_recipe(tiny.recipe("rl", algorithm=sampled, rollout={"max_new_tokens": 124}))
