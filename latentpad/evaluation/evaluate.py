"""Accuracy by cell on held-out problems, greedy and at temperature 1, with the 95% Wilson interval."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from scipy.stats import binomtest

from latentpad.evaluation.tries import tally
from latentpad.progress import stage
from latentpad.rollout import Request, Sampling
from latentpad.seeding import seed_of
from latentpad.training.episodes import grade_rollouts, make_prompt, shown_answer
from latentpad.training.processes.world import ALONE
from latentpad.training.run_folder import write_json, write_text
from reward import Outcome, writes_scratchpad

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.schema import EvaluationSection, Recipe
    from latentpad.rollout.local import LocalEngine
    from latentpad.tasks import Task
    from latentpad.training.processes.world import World
    from latentpad.types import Episode, Problem

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
    recipe: Recipe, policy: Policy, engine: LocalEngine, task: Task, text_format: Format, world: World = ALONE
) -> tuple[list[Cell], list[dict[str, Any]], list[dict[str, Any]]]:
    """Every cell with every decoding: cells, records, and the tallies of the problems that were tried many times.

    The same problems and seeds for every policy, so that arms can be paired. Several processes share the cells out, and
    each is given all results.
    """
    asked = recipe.evaluation
    problems = {cell: task.distinct(asked.split, cell, asked.problems) for cell in evaluated_cells(task, recipe)}
    tries = {cell: held_out[: asked.pass_problems or 0] for cell, held_out in problems.items()}
    responses = len(DECODINGS) * sum(map(len, problems.values())) + (asked.pass_at or 0) * sum(map(len, tries.values()))
    with stage(f"{recipe.name} seed {recipe.seed}: evaluate", responses) as bar:
        measure = Measure(recipe, policy, engine, task, text_format, bar.advance)

        def found(part: tuple[str, str]) -> tuple[Cell, list[dict[str, Any]], list[dict[str, Any]]]:
            decoding, cell = part
            tallies = []
            if decoding in DECODINGS:
                episodes = measure.respond(problems[cell], DECODINGS[decoding])
            else:
                k = asked.pass_at or 0
                tried = measure.respond([problem for problem in tries[cell] for _ in range(k)], 1.0)
                groups = [tried[i : i + k] for i in range(0, len(tried), k)]
                tallies = [tally(task, cell, group) for group in groups]
                episodes = [right_or_first(group) for group in groups]
            return summarise(episodes, cell, decoding), [record(task, e, cell, decoding) for e in episodes], tallies

        decodings = [*DECODINGS, *([] if asked.pass_at is None else [f"pass@{asked.pass_at}"])]
        results = world.spread([(decoding, cell) for decoding in decodings for cell in problems], found)
    return (
        [cell for cell, _, _ in results],
        [line for _, lines, _ in results for line in lines],
        [line for _, _, tallies in results for line in tallies],
    )


def right_or_first(episodes: Sequence[Episode]) -> Episode:
    """Of all responses to one problem the first right one, or where there is none the first."""
    return next((e for e in episodes if e.reward.outcome is Outcome.CORRECT), episodes[0])


@dataclass(frozen=True)
class Measure:
    """One policy's graded responses to held-out problems."""

    recipe: Recipe
    policy: Policy
    engine: LocalEngine
    task: Task
    text_format: Format
    on_chunk: Callable[[int], None] | None = None

    def respond(self, problems: Sequence[Problem], temperature: float) -> list[Episode]:
        """A response to each, by seeds of its own: those of the n-th time that a problem is in the list differ."""
        forbidden = self.policy.scratchpad_ids if self.recipe.scratchpad == "empty" else ()
        sampling = Sampling(temperature, self.recipe.evaluation.max_new_tokens, forbidden)
        times: Counter[str] = Counter()
        requests = []
        for problem in problems:
            names = (problem.id, times[problem.id]) if times[problem.id] else (problem.id,)
            times[problem.id] += 1
            seed = seed_of("evaluate", self.recipe.seed, *names)
            requests.append(Request(make_prompt(self.policy, self.text_format, problem), seed))
        rollouts = self.engine.generate(requests, sampling, self.on_chunk)
        return grade_rollouts(self.policy, self.task, rollouts, ends=self.text_format.ends)


def write_evaluation(
    folder: Path,
    step: int,
    name: str,
    cells: Sequence[Cell],
    records: Sequence[dict[str, Any]],
    tallies: Sequence[dict[str, Any]] = (),
    *,
    asked: EvaluationSection | None = None,
) -> None:
    """`eval/<step>.json` and `.jsonl`, and `.tries.jsonl` if there are tallies.

    The first is written last, so that it is there only when all are. `asked` is noted in it: `latentpad eval` may ask
    for other problems than the run's recipe does.
    """
    folder = folder / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    tries = folder / f"{step}.tries.jsonl"
    write_text(folder / f"{step}.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    if tallies:
        write_text(tries, "".join(json.dumps(line) + "\n" for line in tallies))
    else:
        tries.unlink(missing_ok=True)  # of an earlier evaluation
    noted = {} if asked is None else {"evaluation": asked.model_dump(exclude_none=True)}
    write_json(folder / f"{step}.json", {"step": step, "policy": name, **noted, "cells": [asdict(c) for c in cells]})
