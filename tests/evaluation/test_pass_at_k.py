"""pass@k: the same problems, k responses each with seeds of their own, right if any of them is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from latentpad.evaluation.evaluate import evaluate, right_or_first
from latentpad.rollout.local import LocalEngine
from latentpad.types import Episode
from reward import Outcome, Reward
from tests import tiny


def measured(**evaluation: Any) -> tuple[list[Any], list[dict[str, Any]], list[int]]:
    """Cells, records, and the seeds of all requests at temperature 1, of a random policy."""
    policy = tiny.policy()
    engine, seeds = LocalEngine(policy, chunk_size=64), []
    generate = engine.generate

    def listen(requests: Any, sampling: Any, on_chunk: Any = None) -> Any:
        if sampling.temperature == 1:
            seeds.extend(request.seed for request in requests)
        return generate(requests, sampling, on_chunk)

    engine.generate = listen  # type: ignore[method-assign]
    recipe = tiny.recipe("rl", evaluation={"problems": 6, "max_new_tokens": 3, **evaluation})
    cells, records, _ = evaluate(recipe, policy, engine, tiny.task(), tiny.COMPACT)
    return cells, records, seeds


def test_pass_at_k_is_a_further_decoding_and_leaves_the_others_as_they_were() -> None:
    plain, _, _ = measured()
    cells, records, seeds = measured(pass_at=5, pass_problems=4)
    assert cells[: len(plain)] == plain
    assert [(c.cell, c.decoding, c.n) for c in cells[len(plain) :]] == [
        ("digits=1", "pass@5", 4),
        ("digits=2", "pass@5", 4),
    ]
    assert len(seeds) == len(set(seeds)) + 2 * 4  # one try of each problem has the seed that it has alone
    assert sum(r["decoding"] == "pass@5" for r in records) == 8


def test_more_tries_find_what_one_finds_and_more() -> None:
    cells, records, _ = measured(pass_at=40, pass_problems=6)

    def found(decoding: str) -> set[str]:
        return {r["problem"] for r in records if (r["decoding"], r["outcome"]) == (decoding, "CORRECT")}

    assert found("temperature=1") < found("pass@40")
    many = [c for c in cells if c.decoding == "pass@40"]
    assert sum(c.correct for c in many) == len(found("pass@40"))
    assert all(c.low <= c.accuracy <= c.high for c in many)


def test_the_first_right_response_stands_for_a_problem_else_the_first() -> None:
    wrong, right = (
        Episode(tiny.rollout(tiny.policy(), "1+2", text), text, Reward.of(outcome))
        for text, outcome in (("4", Outcome.WRONG), ("3", Outcome.CORRECT))
    )
    other = replace(right, response="03")
    assert right_or_first([wrong, right, other]) is right
    assert right_or_first([wrong, replace(wrong, response="5")]) is wrong
