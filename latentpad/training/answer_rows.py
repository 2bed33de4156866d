"""Rows that treat scratchpad and answer apart: a sampled scratchpad, and after it the gold answer or the sampled one.

Of the task these ask for answers only. A gold scratchpad is nowhere in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, expm1, log
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from latentpad.algorithms import token_weights
from latentpad.models.tokenizer import encode_strictly
from latentpad.training.collate import Rows
from latentpad.training.rows import observe
from latentpad.training.split import NO_SCRATCHPAD, split_response, with_answer
from latentpad.types import FinishReason
from reward import OPEN_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from latentpad.algorithms import AnswerAlgorithm, Coefficients, Target
    from latentpad.formats import Format
    from latentpad.models.reference import Reference
    from latentpad.tasks import Task
    from latentpad.training.learner import Learner
    from latentpad.types import Rollout


# The least chance of opening no scratchpad that is told from none, for where it is divided by.
LEAST_CHANCE = 1e-6


@dataclass(frozen=True)
class Opening:
    """Whether a prompt's response opens a scratchpad: a decision that belongs to the scratchpad, also where none is.

    With q the chance of the token that opens one, a response without a scratchpad has taken a decision of chance 1 - q,
    and its answer's likelihood is given that decision. The gradient of log(1 - q) is -q / (1 - q) times that of log q.

    Attributes:
        rollout: the prompt, and for a response the token that opens a scratchpad, with the policy's own log q.
        none: log(1 - q) in nats.
        reference_none: the same of the reference; None without one.
    """

    rollout: Rollout
    none: float
    reference_none: float | None

    @property
    def odds(self) -> float:
        """q / (1 - q)."""
        return exp(self.rollout.logprobs[0] - self.none)


def log_none(logprob: float) -> float:
    """log(1 - q) from log q, bounded below."""
    return log(max(-expm1(logprob), LEAST_CHANCE))


@dataclass(frozen=True)
class Answers:
    """What is learned from, row by row, before anything is.

    Attributes:
        rollouts: B of them, response b of T_b tokens: a sampled scratchpad, then the gold answer or the sampled one.
        scratchpads: how many of each response's tokens, from the first, are the scratchpad's.
        openings: of each rollout without a scratchpad that could have had one, the decision that it took; else None.
        logprobs: log pi(gold answer | prompt, scratchpad) of each in nats; None where the rows end in sampled answers.
        bare_logprobs: log pi(gold answer | prompt, no scratchpad) of each; None likewise.
        reference_logprobs: [T_b] each; None without a reference. At the tokens of a gold answer, which the policy did
            not sample, they are the policy's own: KL is of what was sampled.
    """

    rollouts: list[Rollout]
    scratchpads: list[int]
    openings: list[Opening | None]
    logprobs: list[float] | None = None
    bare_logprobs: list[float] | None = None
    reference_logprobs: list[Tensor] | None = None

    def metrics(self) -> dict[str, float]:
        """Mean log-likelihood of the gold answer after the scratchpads, and what these add to it, in nats."""
        if self.logprobs is None or self.bare_logprobs is None:
            return {}
        lifts = [after - bare for after, bare in zip(self.logprobs, self.bare_logprobs, strict=True)]
        return {"answer_logprob": fmean(self.logprobs), "scratchpad_lift": fmean(lifts)}


@dataclass(frozen=True)
class AnswerReader:
    """Finds scratchpads and answers in a step's rollouts, and how likely the gold answers are.

    Attributes:
        task: for the gold answers.
        text_format: for what stands between a scratchpad and an answer.
        target: which answer the rows end in.
        opens: whether a response may open a scratchpad.
        reference: that KL is measured to.
        budget: of padded tokens in a micro-batch.
    """

    task: Task
    text_format: Format
    target: Target
    opens: bool
    reference: Reference | None
    budget: int

    def read(self, rollouts: Sequence[Rollout], learner: Learner) -> Answers:
        """The rows of these rollouts, in passes of the policy (where gold answers are scored) and of the reference.

        The processes share the passes out, and each is given all that was found.
        """
        splits = [split_response(learner.policy, rollout, self.text_format.line_break) for rollout in rollouts]
        counts = [split.tokens for split in splits]
        asked = {rollout.prompt.problem.id: rollout for rollout in rollouts}
        decisions = self._openings(asked, learner) if self.opens else {}
        openings = [
            None if split != NO_SCRATCHPAD else decisions.get(rollout.prompt.problem.id)
            for rollout, split in zip(rollouts, splits, strict=True)
        ]
        if self.target == "sampled":
            seen = observe(rollouts, learner, reference=self.reference, critic=None, budget=self.budget)
            return Answers(list(rollouts), counts, openings, reference_logprobs=seen.reference_logprobs)
        pairs = zip(rollouts, splits, strict=True)
        rows = [with_answer(learner.policy, r, split, self._gold(r)) for r, split in pairs]
        bare = [with_answer(learner.policy, r, NO_SCRATCHPAD, self._gold(r)) for r in asked.values()]
        sums, scored = self._scored(bare, Answers(rows, counts, openings), learner)
        none = {name: decision.none for name, decision in decisions.items()}
        given = {name: logprob - none.get(name, 0.0) for name, logprob in zip(asked, sums, strict=True)}
        return replace(scored, bare_logprobs=[given[row.prompt.problem.id] for row in rows])

    def _gold(self, rollout: Rollout) -> str:
        return self.task.solution(rollout.prompt.problem)

    def _openings(self, asked: Mapping[str, Rollout], learner: Learner) -> dict[str, Opening]:
        """Of each problem, by its id."""
        token = encode_strictly(learner.policy.tokenizer, OPEN_TAG)[0]
        rows = [
            replace(rollout, token_ids=(token,), logprobs=(0.0,), finish_reason=FinishReason.LENGTH)
            for rollout in asked.values()
        ]
        seen = observe(rows, learner, reference=self.reference, critic=None, budget=self.budget, proximal=True)
        assert seen.proximal_logprobs is not None
        found = {}
        for place, (name, row) in enumerate(zip(asked, rows, strict=True)):
            own, said = float(seen.proximal_logprobs[place]), seen.reference_logprobs
            reference_none = None if said is None else log_none(float(said[place]))
            found[name] = Opening(replace(row, logprobs=(own,)), log_none(own), reference_none)
        return found

    def _scored(self, bare: list[Rollout], answers: Answers, learner: Learner) -> tuple[list[float], Answers]:
        """Log-likelihoods of the bare rows, and the answers with theirs."""
        rows, counts = answers.rollouts, answers.scratchpads
        both = [*rows, *bare]
        seen = observe(both, learner, reference=self.reference, critic=None, budget=self.budget, proximal=True)
        assert seen.proximal_logprobs is not None
        own = [logprobs.double() for logprobs in seen.proximal_logprobs]
        golds = [logprobs[n:] for logprobs, n in zip(own, counts, strict=False)]
        none = [0.0 if opening is None else opening.none for opening in answers.openings]
        triples = zip(rows, counts, golds, strict=True)
        scored = Answers(
            [replace(row, logprobs=(*row.logprobs[:n], *gold.tolist())) for row, n, gold in triples],
            counts,
            answers.openings,
            [float(gold.sum()) - given for gold, given in zip(golds, none, strict=True)],
            None,
            _of_scratchpads(seen.reference_logprobs, counts, golds),
        )
        return [float(logprobs.sum()) for logprobs in own[len(rows) :]], scored


def _of_scratchpads(
    reference: Sequence[Tensor] | None, scratchpads: Sequence[int], golds: Sequence[Tensor]
) -> list[Tensor] | None:
    """The reference's logprobs of scratchpads, the policy's own of gold answers: there KL and its gradient are 0."""
    if reference is None:
        return None
    triples = zip(reference, scratchpads, golds, strict=False)
    return [torch.cat([logprobs[:n], gold.to(logprobs.dtype)]) for logprobs, n, gold in triples]


def make_answer_rows(
    answers: Answers,
    signal: Sequence[Sequence[float]],
    algorithm: AnswerAlgorithm,
    *,
    max_new_tokens: int,
    reward_kl: float = 0.0,
    keep_all: bool = False,
) -> Rows:
    """All rows of a step, advantages token by token; weights are fixed over all rows before any is left out.

    A row in which no token has a coefficient carries no gradient: it is left out, the rest keep their weight. Behind
    them stands a row for each prompt whose responses without a scratchpad say something of opening one.

    Args:
        answers: of all groups, one group after the other.
        signal: what each rollout's sampled answer earned, by group.
        algorithm: makes coefficients of it, and of how likely the gold answers are.
        max_new_tokens: the length limit.
        reward_kl: weight of KL to the reference in what a scratchpad earns (k1, summed over the scratchpad's tokens).
        keep_all: something else in the loss (KL, entropy) has a gradient on every row.
    """
    lengths = [len(rollout.token_ids) for rollout in answers.rollouts]
    weights = token_weights(algorithm.needs.aggregation, lengths, max_new_tokens)
    likely = None if answers.logprobs is None else _grouped(answers.logprobs, signal)
    paid = _grouped(_paid(answers, reward_kl), signal) if reward_kl else None
    pairs = [pair for group in algorithm.coefficients(signal, likely, paid) for pair in group]
    advantages = [
        torch.cat([torch.full((n,), scratchpad), torch.full((length - n,), answer)])
        for (scratchpad, answer), n, length in zip(pairs, answers.scratchpads, lengths, strict=True)
    ]
    decided = _decided(answers.openings, pairs, weights)
    rows = [*answers.rollouts, *(opening.rollout for opening, _ in decided)]
    advantages += [torch.full((1,), -opening.odds * sum_ / weights[0]) for opening, sum_ in decided]
    weights += [weights[0]] * len(decided)
    references = answers.reference_logprobs
    if references is not None:
        references = [*references, *(torch.tensor(opening.rollout.logprobs) for opening, _ in decided)]
    kept = [i for i, row in enumerate(advantages) if bool(row.any()) or (keep_all and i < len(lengths))]
    return Rows(rows, advantages, weights, references).take(kept)


def _decided(
    openings: Sequence[Opening | None], pairs: Sequence[Coefficients], weights: Sequence[float]
) -> list[tuple[Opening, float]]:
    """Of each prompt with responses without a scratchpad, the sum of what log(1 - q) counts in the loss.

    That is what a scratchpad counts, less what an answer does: its likelihood is given the decision.
    """
    sums: dict[str, tuple[Opening, float]] = {}
    for opening, (scratchpad, answer), weight in zip(openings, pairs, weights, strict=True):
        if opening is not None:
            name = opening.rollout.prompt.problem.id
            sums[name] = opening, sums.get(name, (opening, 0.0))[1] + weight * (scratchpad - answer)
    return list(sums.values())


def _paid(answers: Answers, coef: float) -> list[float]:
    """What each scratchpad costs; none costs what it takes to have none."""
    assert answers.reference_logprobs is not None
    costs = []
    columns = (answers.rollouts, answers.reference_logprobs, answers.scratchpads, answers.openings)
    for row, reference, n, opening in zip(*columns, strict=True):
        kl = sum(row.logprobs[:n]) - float(reference[:n].double().sum())
        if opening is not None and opening.reference_none is not None:
            kl = opening.none - opening.reference_none
        costs.append(coef * kl)
    return costs


def _grouped(values: Sequence[float], like: Sequence[Sequence[float]]) -> list[list[float]]:
    flat = iter(values)
    return [[next(flat) for _ in group] for group in like]
