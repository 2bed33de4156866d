"""Accuracy by cell on held-out problems, greedy and at temperature 1, with the 95% Wilson interval."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

from latentpad.progress import stage
from latentpad.rollout import Request, Sampling
from latentpad.seeding import seed_of
from latentpad.training.episodes import grade_rollouts, make_prompt, shown_answer
from latentpad.training.run_folder import write_json
from reward import Outcome, writes_scratchpad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout.local import LocalEngine
    from latentpad.tasks import Task
    from latentpad.types import Episode

DECODINGS = {"greedy": 0.0, "temperature=1": 1.0}


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of `eval/<step>.json`.

    Attributes:
        task, split, cell, decoding: what was measured.
        n: problems, one response each.
        correct: right answers among them.
        accuracy, low, high: their share and its 95% Wilson score interval (Wilson 1927).
        scratchpad_rate: share of responses with a scratchpad that is opened, written into and closed.
        response_tokens: mean length, the stop token included.
        truncated, unparseable, grader_failed: shares of responses with that outcome.
    """

    task: str
    split: str
    cell: str
    n: int
    correct: int
    accuracy: float
    low: float
    high: float
    decoding: str
    scratchpad_rate: float
    response_tokens: float
    truncated: float
    unparseable: float
    grader_failed: float


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share."""
    interval = binomtest(correct, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def summarise(episodes: Sequence[Episode], cell: str, decoding: str) -> Cell:
    """The numbers of one cell."""
    n, outcomes = len(episodes), Counter(episode.reward.outcome for episode in episodes)
    correct = outcomes[Outcome.CORRECT]
    low, high = wilson(correct, n)
    problem = episodes[0].rollout.prompt.problem
    return Cell(
        task=problem.task,
        split=problem.split,
        cell=cell,
        n=n,
        correct=correct,
        accuracy=correct / n,
        low=low,
        high=high,
        decoding=decoding,
        scratchpad_rate=fmean(writes_scratchpad(episode.response) for episode in episodes),
        response_tokens=fmean(len(episode.rollout.token_ids) for episode in episodes),
        truncated=outcomes[Outcome.TRUNCATED] / n,
        unparseable=outcomes[Outcome.UNPARSEABLE] / n,
        grader_failed=outcomes[Outcome.GRADER_FAILED] / n,
    )


def record(task: Task, episode: Episode, cell: str, decoding: str) -> dict[str, Any]:
    """One line of `eval/<step>.jsonl`."""
    problem = episode.rollout.prompt.problem
    return {
        "problem": problem.id,
        "task": problem.task,
        "split": problem.split,
        "cell": cell,
        "decoding": decoding,
        "prompt": episode.rollout.prompt.text,
        "response": episode.response,
        "answer": shown_answer(task, episode.response),
        "gold": problem.answer,
        "outcome": episode.reward.outcome.value,
        "finish_reason": episode.rollout.finish_reason.value,
    }


def evaluated_cells(task: Task, recipe: Recipe) -> tuple[str, ...]:
    """The trained cells, then those beyond."""
    return (*task.cells, *(cell for cell in recipe.evaluation.beyond if cell not in task.cells))


def evaluate(
    recipe: Recipe, policy: Policy, engine: LocalEngine, task: Task, text_format: Format
) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Every cell with every decoding. The same problems and seeds for every policy, so that arms can be paired."""
    forbidden = policy.scratchpad_ids if recipe.scratchpad == "empty" else ()
    asked = recipe.evaluation
    problems = {cell: task.distinct(asked.split, cell, asked.problems) for cell in evaluated_cells(task, recipe)}
    total = len(DECODINGS) * sum(map(len, problems.values()))
    cells, records = [], []
    with stage(f"{recipe.name} seed {recipe.seed}: evaluate", total) as bar:
        for decoding, temperature in DECODINGS.items():
            sampling = Sampling(temperature, recipe.evaluation.max_new_tokens, forbidden)
            for cell, held_out in problems.items():
                requests = [
                    Request(make_prompt(policy, text_format, p), seed_of("evaluate", recipe.seed, p.id))
                    for p in held_out
                ]
                episodes = grade_rollouts(policy, task, engine.generate(requests, sampling, bar.advance))
                cells.append(summarise(episodes, cell, decoding))
                records += [record(task, episode, cell, decoding) for episode in episodes]
    return cells, records


def write_evaluation(
    folder: Path, step: int, name: str, cells: Sequence[Cell], records: Sequence[dict[str, Any]]
) -> None:
    """`eval/<step>.json` and `eval/<step>.jsonl`; the first is written last, so that it is there only when both are."""
    folder = folder / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    write_json(folder / f"{step}.json", {"step": step, "policy": name, "cells": [asdict(cell) for cell in cells]})
