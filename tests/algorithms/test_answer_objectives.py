"""Coefficients of the objectives of answers: worked by hand, what they depend on, and what the loss does with them."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentpad.algorithms import (
    ALGORITHMS,
    ONE_UPDATE_ALGORITHMS,
    AnswerAlgorithm,
    CriticAlgorithm,
    GroupAlgorithm,
    MemoryAlgorithm,
    Needs,
    TokenObjective,
    build_algorithm,
)
from latentpad.algorithms.answer_tokens import AnswerTokens
from latentpad.algorithms.jepo import JEPO
from latentpad.algorithms.latro import LaTRO
from latentpad.algorithms.trice import TRICE
from latentpad.algorithms.verifree import VeriFree
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Component

LIKELIHOODS: list[AnswerAlgorithm] = [VeriFree(), LaTRO(), JEPO()]
ALL: list[TokenObjective] = [*LIKELIHOODS, AnswerTokens(), AnswerTokens("sampled"), TRICE()]
GROUPS = st.lists(st.floats(-30, -0.01), min_size=2, max_size=6)


def flat(algorithm: AnswerAlgorithm, *arguments: Any) -> list[float]:
    return [number for group in algorithm.coefficients(*arguments) for pair in group for number in pair]


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (VeriFree(), [0.4 - 0.15, 0.4, 0.2 - 0.25, 0.2, 0.1 - 0.3, 0.1]),
        (LaTRO(), [log(0.4) - log(0.02) / 2, 1, log(0.2) - log(0.04) / 2, 1, log(0.1) - log(0.08) / 2, 1]),
        # the mean of 0.4, 0.2, 0.1 is 0.7 / 3, those of the others 0.15, 0.25 and 0.3
        (JEPO(), [3 * log(0.7 / 0.45), 12 / 7, 3 * log(0.7 / 0.75), 6 / 7, 3 * log(0.7 / 0.9), 3 / 7]),
    ],
    ids=str,
)
def test_coefficients_of_scratchpad_and_gold_answer(algorithm: AnswerAlgorithm, expected: list[float]) -> None:
    logs = [log(0.4), log(0.2), log(0.1)]
    assert flat(algorithm, [[0, 0, 1]], [logs], None) == pytest.approx(expected)
    twice = flat(algorithm, [[0, 0, 1], [1, 1, 1]], [logs, logs[::-1]], None)
    assert twice[:6] == pytest.approx(expected)
    assert twice[6:8] == pytest.approx(expected[4:])  # each group for itself


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (AnswerTokens(), [0, 1, 0, 0, 0, 0.75]),
        (AnswerTokens(only="all"), [0, 1, 0, 1, 0, 1]),
        (AnswerTokens("sampled"), [0, -1, 0, 0, 0, -0.75]),
    ],
    ids=str,
)
def test_coefficients_of_answers_alone(algorithm: AnswerTokens, expected: list[float]) -> None:
    assert flat(algorithm, [[0, 1, 0.25]], None, None) == expected


def test_what_a_scratchpad_pays_for_kl_is_taken_off_its_likelihood() -> None:
    found = LaTRO().coefficients([[0, 0]], [[-1.0, -2.0]], [[0.5, -1.0]])
    assert found == [[(-1.5 - -1.0, 1.0), (-1.0 - -1.5, 1.0)]]


@pytest.mark.parametrize("algorithm", LIKELIHOODS, ids=str)
@given(logs=GROUPS, data=st.data())
def test_a_scratchpad_counts_by_the_likelihood_after_it_and_nothing_else(
    algorithm: AnswerAlgorithm, logs: list[float], data: st.DataObject
) -> None:
    """Neither what its own answer earned nor its place in the group: equal likelihoods have equal coefficients."""
    rewards = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(logs), max_size=len(logs)))
    order = data.draw(st.permutations(range(len(logs))))
    [found] = algorithm.coefficients([[0.0] * len(logs)], [logs], None)
    [moved] = algorithm.coefficients([rewards], [[logs[i] for i in order]], None)
    for place, i in enumerate(order):
        assert moved[place] == pytest.approx(found[i], rel=1e-9, abs=1e-12)
    ranked = [pad for _, (pad, _) in sorted(zip(logs, found, strict=True))]
    assert all(low <= high + 1e-9 for low, high in pairwise(ranked))  # the likelier one counts more
    assert all(answer >= 0 for _, answer in found)


@given(logs=GROUPS)
def test_leave_one_out_coefficients_of_scratchpads_sum_to_zero_and_those_of_jepo_answers_to_the_group(
    logs: list[float],
) -> None:
    for algorithm in (VeriFree(), LaTRO()):
        assert sum(pad for pad, _ in algorithm.coefficients([logs], [logs], None)[0]) == pytest.approx(0, abs=1e-9)
    assert sum(answer for _, answer in JEPO().coefficients([logs], [logs], None)[0]) == pytest.approx(len(logs))


def test_likelihoods_too_small_for_a_float_are_no_trouble() -> None:
    logs = [[-2000.0, -2000.0 + log(3.0), -5000.0]]
    assert flat(VeriFree(), logs, logs, None) == [0.0] * 6
    # a third answer e^-3000 times as likely adds nothing: as if the mean were of 1, 3 and 0
    found = JEPO().coefficients(logs, logs, None)[0]
    assert found[0] == pytest.approx((3 * log(4 / 3 / 1.5), 0.75))
    assert found[2] == pytest.approx((3 * log(4 / 3 / 2), 0.0))


@pytest.mark.parametrize(
    ("right", "remembers", "expected", "before"),
    [
        # states after each of three: memory, 2nd, 2nd; shares of the others that are right: 1/2, 0, 1/2
        ([0, 1, 0], True, [-0.5, 2, -0.5], 1),
        ([0, 1, 0], False, [-0.5, 2, -0.5], 0),  # the state before the first right one is none
        ([1, 0, 1], True, [2 - 0.5, -1, 1 - 0.5], 0),
        ([0, 0, 0], True, [0, 0, 0], 3),
        ([0, 0, 0], False, [0, 0, 0], 0),
        ([1, 1, 1], True, [0, 0, 0], 0),  # a policy that is always right is left alone
    ],
)
def test_the_chain(right: list[int], remembers: bool, expected: list[float], before: float) -> None:
    assert TRICE().chain([bool(r) for r in right], remembers=remembers) == (expected, before)


@given(right=st.lists(st.booleans(), min_size=2, max_size=8))
def test_all_states_of_a_chain_are_counted_once(right: list[bool]) -> None:
    found, before = TRICE().chain(right, remembers=True)
    assert sum(found) + before == pytest.approx(len(right) - sum(right))
    assert before == (right.index(True) if any(right) else len(right))


@pytest.mark.parametrize("algorithm", ALL, ids=str)
def test_the_loss_is_minus_coefficient_times_logprob_and_padding_is_nothing(algorithm: TokenObjective) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logprobs = torch.tensor([[-1.0, -2.0, torch.nan], [-3.0, torch.inf, torch.nan]], requires_grad=True)
    coefficients = torch.tensor([[0.5, -2.0, torch.nan], [0.0, 7.0, torch.inf]])
    # not of the policy that sampled: nothing is clipped and no ratio taken
    loss = algorithm.token_loss(
        logprobs=logprobs, rollout_logprobs=torch.full((2, 3), -9.0), advantages=coefficients, mask=mask
    ).loss
    assert loss.tolist() == [[0.5, -4.0, 0.0], [0.0, 0.0, 0.0]]
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-0.5, 2.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", ONE_UPDATE_ALGORITHMS)
def test_each_is_built_by_name_and_is_one_kind_of_algorithm(name: str) -> None:
    built = build_algorithm(Component(name=name))
    kinds = (GroupAlgorithm, CriticAlgorithm, AnswerAlgorithm, MemoryAlgorithm)
    assert [isinstance(built, kind) for kind in kinds] == [False, False, name != "trice", name == "trice"]
    assert built.needs == Needs("constant")
    assert name not in ALGORITHMS


@pytest.mark.parametrize("name", ["verifree", "latro", "jepo", "answer_tokens"])
def test_the_average_can_be_chosen(name: str) -> None:
    assert build_algorithm(Component(name=name, aggregation="sequence")).needs == Needs("sequence")


def test_only_latro_pays_kl_and_only_answer_tokens_can_end_in_sampled_answers() -> None:
    assert [a.pays_kl for a in LIKELIHOODS] == [False, True, False]
    assert {a.target for a in LIKELIHOODS} == {"reference"}
    built = build_algorithm(Component(name="answer_tokens", target="sampled"))
    assert built == AnswerTokens("sampled")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"name": "answer_tokens", "target": "sampled", "only": "all"},
            "'all' would make right answers less likely too",
        ),
        ({"name": "answer_tokens", "target": "gold"}, "target"),
        ({"name": "verifree", "clip_low": 0.1}, "clip_low"),
        ({"name": "trice", "aggregation": "token"}, "aggregation"),
        ({"name": "verifre"}, "verifree"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line) as error:
        build_algorithm(Component(**options))
    assert "\n" not in str(error.value)


def test_verifree_of_certain_answers_says_nothing_of_scratchpads() -> None:
    assert VeriFree().coefficients([[1, 1]], [[0.0, 0.0]], None) == [[(0.0, exp(0.0)), (0.0, 1.0)]]
