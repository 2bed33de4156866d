"""What objectives of answers climb: their expected ascent, over every group that may be drawn, is a known gradient.

A policy small enough to enumerate that may open a scratchpad, of letters and a closing tag, and then writes an answer
of one letter, then a stop token or, wrongly, one letter more: 5 scratchpads, one of them none, times 4 answers. A table
of logits in float64.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING

import pytest
import torch

from latentpad.algorithms.answer_tokens import AnswerTokens
from latentpad.algorithms.jepo import JEPO
from latentpad.algorithms.latro import LaTRO
from latentpad.algorithms.trice import TRICE
from latentpad.algorithms.verifree import VeriFree
from latentpad.training.answer_rows import Answers, Opening, make_answer_rows
from latentpad.training.collate import Rows
from latentpad.training.memory import Memory
from latentpad.types import FinishReason, Problem, Prompt, Rollout
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from latentpad.algorithms import AnswerAlgorithm, TokenObjective

A, B, CLOSE, X, Y, OPEN, STOP = 1, 2, 3, 4, 5, 6, 0
PADS = [(), (OPEN, CLOSE), (OPEN, A, CLOSE), (OPEN, A, B, CLOSE), (OPEN, B, CLOSE)]
ANSWERS = [(X, STOP), (Y, STOP), (X, X), (Y, X)]
GOLD, LIMIT = 0, 6
RESPONSES = [(*pad, *answer) for pad in PADS for answer in ANSWERS]
PAD_OF = [place // len(ANSWERS) for place in range(len(RESPONSES))]
REWARDS = [float(place % len(ANSWERS) == GOLD) for place in range(len(RESPONSES))]
# What may follow what was written; where only one token may, it has no logit.
CHOICES: dict[tuple[int, ...], tuple[int, ...]] = {
    (OPEN,): (A, B, CLOSE),
    (OPEN, A): (B, CLOSE),
    (): (OPEN, X, Y),
    **dict.fromkeys(PADS[1:], (X, Y)),
    **{(*pad, answer): (STOP, X) for pad in PADS for answer in (X, Y)},
}
STARTS = dict(zip(CHOICES, torch.tensor([0, *map(len, CHOICES.values())]).cumsum(0).tolist(), strict=False))
LOGITS = torch.randn(sum(map(len, CHOICES.values())), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
LOGITS.requires_grad_()
# Logits of scratchpads, that of opening one among them, stand before those of answers.
PAD_LOGITS = 6


def token_logprob(before: tuple[int, ...], token: int) -> Tensor:
    if before not in CHOICES:
        return torch.zeros((), dtype=torch.float64)
    table = LOGITS[STARTS[before] : STARTS[before] + len(CHOICES[before])].log_softmax(0)
    return table[CHOICES[before].index(token)]


def logprobs_of(response: Sequence[int]) -> Tensor:
    return torch.stack([token_logprob(tuple(response[:t]), token) for t, token in enumerate(response)])


LOGPROBS = [logprobs_of(response) for response in RESPONSES]
CHANCES = torch.stack([row.sum().exp() for row in LOGPROBS])
PAD_CHANCES = torch.stack([CHANCES[[i for i in range(20) if PAD_OF[i] == z]].sum() for z in range(5)])
# log pi(a*|x, z); without a scratchpad given that none was opened
LIKELY = torch.stack([LOGPROBS[4 * z + GOLD][-2:].sum() for z in range(5)]) - torch.stack(
    [PAD_CHANCES[0].log(), *torch.zeros(4)]
)
PASS_RATE = (PAD_CHANCES * LIKELY.exp()).sum()
RATE = float(PASS_RATE.detach())


def gradient(objective: Tensor) -> Tensor:
    found = torch.autograd.grad(objective, LOGITS, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(LOGITS) if found is None else found


JACOBIAN = {r: torch.stack([gradient(t) if t.requires_grad else 0 * LOGITS for t in row]).detach()
            for r, row in zip(RESPONSES, LOGPROBS, strict=True)}  # fmt: skip
JACOBIAN[(OPEN,)] = JACOBIAN[RESPONSES[4]][:1]
PROMPT = Prompt(Problem("p", "t", "train", "c", "q", "x"), "q", (9,))


def rollout(response: tuple[int, ...]) -> Rollout:
    row = LOGPROBS[RESPONSES.index(response)] if response in RESPONSES else logprobs_of(response)
    own = tuple(row.detach().tolist())
    return Rollout(PROMPT, response, own, FinishReason.STOP, 0, "", 0)


def descent_of(algorithm: TokenObjective, rows: Rows) -> Tensor:
    """[D] what gradient descent on the loss of these rows climbs."""
    if not rows.rollouts:
        return torch.zeros_like(LOGITS)
    batch = rows.collate()
    own = batch.rollout_logprobs.clone().requires_grad_()
    loss = algorithm.token_loss(
        logprobs=own, rollout_logprobs=batch.rollout_logprobs, advantages=batch.advantages, mask=batch.response_mask
    ).loss
    (loss * batch.weights).sum().backward()
    assert own.grad is not None
    slopes = zip(rows.rollouts, own.grad, strict=True)
    return -torch.stack([row[: len(r.token_ids)] @ JACOBIAN[r.token_ids] for r, row in slopes]).sum(0).detach()


def ascent(algorithm: AnswerAlgorithm, drawn: tuple[int, ...], reference: Tensor | None = None) -> Tensor:
    """[D] of one group of responses, through the rows that a run makes of it; times the length limit."""
    counts, rewards = [len(PADS[PAD_OF[i]]) for i in drawn], [REWARDS[i] for i in drawn]
    said = None if reference is None else float((-reference[4, 0].exp()).log1p())
    opening = Opening(rollout((OPEN,)), float(PAD_CHANCES[0].detach().log()), said)
    openings = [None if PAD_OF[i] else opening for i in drawn]
    if algorithm.target == "sampled":
        answers = Answers([rollout(RESPONSES[i]) for i in drawn], counts, openings)
    else:
        golds = [4 * PAD_OF[i] + GOLD for i in drawn]
        likely = [float(LIKELY[PAD_OF[i]].detach()) for i in drawn]
        held = None if reference is None else [reference[g][: len(RESPONSES[g])] for g in golds]
        answers = Answers([rollout(RESPONSES[g]) for g in golds], counts, openings, likely, None, held)
    coef = 0.0 if reference is None else BETA
    rows = make_answer_rows(answers, [rewards], algorithm, max_new_tokens=LIMIT, reward_kl=coef)
    return LIMIT * descent_of(algorithm, rows)


def expected(function: Callable[[tuple[int, ...]], Tensor], size: int, states: Sequence[int] = range(20)) -> Tensor:
    """[D] exactly, over groups of `size` responses; with fewer `states` each stands for all of its scratchpad."""
    chances = CHANCES.detach() if len(states) == 20 else PAD_CHANCES.detach().repeat_interleave(4)
    with tiny.double():
        return torch.stack(
            [prod(float(chances[i]) for i in drawn) * function(drawn) for drawn in product(states, repeat=size)]
        ).sum(0)


ONE_A_PAD = range(0, 20, 4)  # enough where the sampled answer does not matter
BETA = 0.3


def climbs(algorithm: AnswerAlgorithm, objective: Tensor, size: int, states: Sequence[int] = ONE_A_PAD) -> None:
    found, exact = expected(lambda drawn: ascent(algorithm, drawn), size, states), gradient(objective)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
    assert exact.norm() > 0.05


def test_the_world_is_a_policy_whose_scratchpads_matter() -> None:
    chances, likely = CHANCES.detach(), LIKELY.detach()
    assert float(chances.sum()) == pytest.approx(1)
    assert float(chances @ torch.tensor(REWARDS).double()) == pytest.approx(RATE)
    assert 0.1 < RATE < 0.9
    assert likely.max() - likely.min() > 0.5
    assert 0.1 < PAD_CHANCES[0].detach() < 0.9
    assert len({len(pad) for pad in PADS}) == 4
    assert list(CHOICES)[2] == ()
    assert STARTS[()] + CHOICES[()].index(OPEN) == PAD_LOGITS - 1


@pytest.mark.parametrize("size", [2, 3])
def test_verifree_climbs_the_pass_rate_whatever_was_sampled_as_answer(size: int) -> None:
    climbs(VeriFree(), PASS_RATE, size)


def test_verifree_has_less_noise_than_verdicts() -> None:
    exact = gradient(PASS_RATE)

    def noise(function: Callable[[tuple[int, ...]], Tensor]) -> float:
        return float(expected(lambda drawn: (function(drawn) - exact).square(), 2).sum())

    def verdicts(drawn: tuple[int, ...]) -> Tensor:  # RLOO of two
        lead = REWARDS[drawn[0]] - REWARDS[drawn[1]]
        scores = [JACOBIAN[RESPONSES[i]].sum(0) for i in drawn]
        return lead * (scores[0] - scores[1]) / 2

    torch.testing.assert_close(expected(verdicts, 2), exact, rtol=0, atol=1e-12)
    assert noise(lambda drawn: ascent(VeriFree(), drawn)) < 0.7 * noise(verdicts)


@pytest.mark.parametrize("size", [2, 3])
def test_latro_climbs_the_expected_log_likelihood(size: int) -> None:
    climbs(LaTRO(), (PAD_CHANCES * LIKELY).sum(), size)


def test_with_kl_in_the_reward_latro_climbs_the_log_likelihood_less_the_kl_of_scratchpads() -> None:
    generator = torch.Generator().manual_seed(7)
    reference = torch.randn(20, LIMIT, dtype=torch.float64, generator=generator).abs().neg()
    before = torch.stack([reference[4 * z, : len(pad)].sum() for z, pad in enumerate(PADS)])  # log pi_0(z|x)
    before[0] = (-reference[4, 0].exp()).log1p()
    exact = gradient((PAD_CHANCES * (LIKELY - BETA * (PAD_CHANCES.log() - before))).sum())
    found = expected(lambda drawn: ascent(LaTRO(), drawn, reference), 2, ONE_A_PAD)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
    assert (exact - gradient((PAD_CHANCES * LIKELY).sum())).norm() > 0.05


@pytest.mark.parametrize("size", [2, 3])
def test_jepo_climbs_its_bound(size: int) -> None:
    terms = [
        torch.stack([PAD_CHANCES[z] for z in drawn]).prod() * LIKELY[list(drawn)].exp().mean().log()
        for drawn in product(range(5), repeat=size)
    ]
    bound = torch.stack(terms).sum()
    climbs(JEPO(), bound, size)
    assert (PAD_CHANCES * LIKELY).sum().detach() < bound.detach() < PASS_RATE.log().detach()  # the tighter bound


def test_the_gold_answer_after_held_scratchpads_is_the_second_term_of_latro_alone() -> None:
    climbs(AnswerTokens(only="all"), (PAD_CHANCES.detach() * LIKELY).sum(), 2)


def test_on_wrong_answers_alone_it_weighs_each_scratchpad_by_how_often_it_fails() -> None:
    weights = PAD_CHANCES.detach() * (1 - LIKELY.exp().detach())
    climbs(AnswerTokens(), (weights * LIKELY).sum(), 2, range(20))


def test_wrong_answers_made_less_likely_have_the_gradient_of_right_ones_rewarded_on_their_answers() -> None:
    climbs(AnswerTokens(target="sampled"), (PAD_CHANCES.detach() * LIKELY.exp()).sum(), 2, range(20))


@pytest.mark.parametrize(
    "algorithm", [AnswerTokens(), AnswerTokens(only="all"), AnswerTokens(target="sampled")], ids=str
)
def test_of_answer_tokens_no_group_ever_moves_a_scratchpad(algorithm: AnswerTokens) -> None:
    moved = 0.0
    with tiny.double():
        for drawn in product(range(20), repeat=2):
            found = ascent(algorithm, drawn)
            torch.testing.assert_close(found[:PAD_LOGITS], torch.zeros(PAD_LOGITS), rtol=0, atol=1e-13)
            moved = max(moved, float(found.norm()))
    assert moved > 0.1
    assert gradient(PASS_RATE)[:PAD_LOGITS].norm() > 0.05  # which would have had something to say of them


def chained(drawn: tuple[int, ...], remembered: int | None) -> Tensor:
    """[D] TRICE's ascent from a group, with a remembered response or without; times the length limit."""
    memory = Memory()
    if remembered is not None:
        memory.load({"responses": {"p": list(RESPONSES[remembered])}})
    rollouts = [rollout(RESPONSES[i]) for i in drawn]
    found, old = memory.vie(rollouts, [REWARDS[i] for i in drawn], TRICE())
    rows, counts = [*rollouts, *(r for r, _ in old)], [*found, *(count for _, count in old)]
    weights = [1 / (len(drawn) * LIMIT)] * len(rows)
    return LIMIT * descent_of(TRICE(), Rows(rows, counts, weights))


def test_with_a_chain_that_has_followed_the_policy_trice_climbs_log_p() -> None:
    posterior = {i: float(CHANCES[i].detach()) / RATE for i in range(20) if REWARDS[i]}
    assert sum(posterior.values()) == pytest.approx(1)

    def over_states(drawn: tuple[int, ...]) -> Tensor:
        if REWARDS[drawn[0]]:  # no state of the chain is the remembered one: any does
            return chained(drawn, GOLD)
        return torch.stack([share * chained(drawn, i) for i, share in posterior.items()]).sum(0)

    found = expected(over_states, 2)
    torch.testing.assert_close(found, gradient(PASS_RATE.log()), rtol=0, atol=1e-12)
    assert found.norm() > 0.1


def test_a_problem_never_solved_climbs_log_p_too_times_the_chance_that_there_is_a_state() -> None:
    # 1 - (1 - p)^t after t responses: p and 1 - (1 - p)^2 of two
    factor = (RATE + 1 - (1 - RATE) ** 2) / 2
    found = expected(lambda drawn: chained(drawn, None), 2)
    torch.testing.assert_close(found, factor * gradient(PASS_RATE.log()), rtol=0, atol=1e-12)
