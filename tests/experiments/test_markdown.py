"""The numbers of an experiment as Markdown tables."""

from __future__ import annotations

from typing import Any

from latentpad.experiments.markdown import results_markdown


def cell(seed: int, name: str, accuracy: float, pads: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "cell": name,
        "n": 500,
        "decoding": "greedy",
        "accuracy": accuracy,
        "scratchpad_rate": pads,
    }


def summary() -> dict[str, Any]:
    cost = {"samples": 12800, "tokens_generated": 0, "tokens_trained": 51824, "seconds": 13.6}
    machine = {
        "git_commit": "abc",
        "cores": 2,
        "cpu": "X",
        "memory_gb": 24,
        "gpu": None,
        "python": "3.11",
        "threads": 1,
    }
    packages = {"torch": "2.13", "transformers": "5.23", "trl": None, "peft": "0.21"}
    base = [cell(s, name, a, 0.0) for s, name, a in [(0, "a", 0.5), (0, "b", 0.1), (1, "a", 0.7), (1, "b", 0.2)]]
    arm = [cell(s, name, a, 1.0) for s, name, a in [(0, "a", 0.9), (0, "b", 0.3), (1, "a", 1.0), (1, "b", 0.4)]]
    return {
        "experiment": "small",
        "command": "latentpad ablate small.yaml",
        "created": "2026-01-02T03:04:05",
        "machine": {**machine, "packages": packages},
        "train_cells": ["a"],
        "arms": [
            {
                "arm": "base",
                "from": None,
                "seeds": [0, 1],
                "cells": base,
                "costs": [{"seed": s, **cost} for s in (0, 1)],
            },
            {
                "arm": "rl",
                "from": "base",
                "seeds": [0, 1],
                "cells": arm,
                "costs": [{"seed": s, **cost} for s in (0, 1)],
            },
            {"arm": "lost", "from": "base", "seeds": [0, 1], "cells": [], "costs": []},
        ],
        "comparisons": [
            {"arm": "rl", "baseline": "base", "seed": s, "cell": "a", "decoding": "greedy", "p_value": p}
            | {"difference": d, "low": d - 0.1, "high": d + 0.1}
            for s, d, p in [(0, 0.4, 1e-9), (1, 0.3, 0.042)]
        ],
    }


def test_every_seed_stands_on_its_own_and_what_is_beyond_is_marked() -> None:
    text = results_markdown(summary())
    assert "| arm | a | b (beyond) | mean of trained cells |" in text
    assert "| base | 50.0 / 70.0 | 10.0 / 20.0 | 50.0 / 70.0 |" in text
    assert "| rl | 90.0 / 100.0 | 30.0 / 40.0 | 90.0 / 100.0 |" in text
    assert "| rl | 100 / 100 | 100 / 100 | 100 / 100 |" in text
    assert "| base | 12,800 / 12,800 | 0 / 0 | 51,824 / 51,824 | 14 / 14 |" in text


def test_an_arm_without_an_evaluation_is_said_to_have_none() -> None:
    assert "| lost | not evaluated | not evaluated | not evaluated |" in results_markdown(summary())


def test_comparisons_name_difference_interval_and_p() -> None:
    assert "| rl | +40.0 (+30.0 to +50.0), p < 0.001; +30.0 (+20.0 to +40.0), p = 0.042 |" in results_markdown(
        summary()
    )


def test_it_says_how_it_was_made() -> None:
    text = results_markdown(summary())
    assert "`latentpad ablate small.yaml`, 2026-01-02, commit abc. 2 cores (X), 24 GB, GPU: none; Python 3.11" in text
    assert "torch 2.13, transformers 5.23, peft 0.21; threads: 1." in text
