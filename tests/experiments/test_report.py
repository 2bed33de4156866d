"""The page holds exactly the numbers of summary.json, shows any response safely, and says what is missing."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.experiments.plots import ArmLines, SeedLine, mark_of, moving_mean
from latentpad.experiments.report import split_response, visible, write_report
from latentpad.experiments.table import experiment_table
from latentpad.recipe.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

# arm -> (method, accuracy at digits=1..6, share of responses with a scratchpad, what it writes in RL)
ARMS: dict[str, tuple[str, tuple[float, ...], float]] = {
    "base": ("pretrain", (0.97, 0.78, 0.55, 0.42, 0.03, 0.0), 0.2),
    "direct": ("supervised", (1.0, 0.95, 0.81, 0.63, 0.02, 0.0), 0.0),
    "nye": ("supervised", (1.0, 1.0, 0.99, 0.986, 0.21, 0.02), 1.0),
    "answers-only": ("rl", (1.0, 1.0, 0.996, 0.992, 0.27, 0.04), 1.0),
    "random-reward": ("rl", (0.96, 0.77, 0.56, 0.43, 0.03, 0.0), 0.22),
    "no-scratchpad": ("rl", (1.0, 0.93, 0.78, 0.6, 0.02, 0.0), 0.0),
}
LENGTHS = range(1, 7)
PROBLEMS = 60


def wilson(correct: int, n: int) -> tuple[float, float]:
    z, p = 1.959964, correct / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def pad_of(a: int, b: int) -> str:
    lines, carry, result = [], 0, ""
    left, right = str(a), str(b)
    while left:
        lines.append(f"{left}+{right},{result}C:{carry}")
        total = int(left[-1]) + int(right[-1]) + carry
        carry, result, left, right = total // 10, f"{total % 10}{result}", left[:-1], right[:-1]
    return "\n".join([*lines, f",{result}C:{carry}", f"{carry}{result}"])


def responses(rng: random.Random, accuracy: tuple[float, ...], pad_rate: float) -> list[dict[str, Any]]:
    records = []
    for length, share in zip(LENGTHS, accuracy, strict=True):
        for _ in range(PROBLEMS):
            a, b = rng.randrange(10 ** (length - 1), 10**length), rng.randrange(10 ** (length - 1), 10**length)
            right, padded = rng.random() < share, rng.random() < pad_rate
            answer = str(a + b) if right else str(a + b + rng.choice([-1, 1]) * 10 ** rng.randrange(length))
            cut = padded and not right and rng.random() < 0.3
            text = f"<scratch>{pad_of(a, b)}</scratch>{answer}" if padded else answer
            records.append(
                {
                    "problem": f"addition/test/{a}+{b}",
                    "task": "addition",
                    "split": "test",
                    "cell": f"digits={length}",
                    "decoding": "greedy",
                    "prompt": f"{a}+{b}=",
                    "response": text[: len(text) * 2 // 3] if cut else text,
                    "answer": None if cut else answer,
                    "gold": str(a + b),
                    "outcome": "TRUNCATED" if cut else "CORRECT" if right else "WRONG",
                    "finish_reason": "LENGTH" if cut else "STOP",
                }
            )
    return records


def cell(rng: random.Random, length: int, decoding: str, share: float, pad_rate: float) -> dict[str, Any]:
    correct = sum(rng.random() < share for _ in range(500))
    low, high = wilson(correct, 500)
    return {
        "task": "addition",
        "split": "test",
        "cell": f"digits={length}",
        "n": 500,
        "correct": correct,
        "accuracy": correct / 500,
        "low": low,
        "high": high,
        "decoding": decoding,
        "scratchpad_rate": min(1.0, pad_rate * rng.uniform(0.9, 1.0)) if 0 < pad_rate < 1 else pad_rate,
        "response_tokens": 3 + length + pad_rate * length * length * 2.5,
        "truncated": 0.01 * pad_rate,
        "unparseable": 0.004,
        "grader_failed": 0.0,
    }


def metrics(rng: random.Random, method: str, start: float, end: float, pad_rate: float) -> list[dict[str, Any]]:
    steps, rows = (120 if method == "rl" else 300), []
    for step in range(1, steps + 1):
        done = 1 - 0.97 ** (step * 120 / steps)
        timing = {"rollout_seconds": 0.4, "train_seconds": 0.3, "seconds": 0.71}
        row = {
            "step": step,
            "learning_rate": 1e-3,
            "grad_norm": 0.4,
            "samples": 512 * step,
            "tokens_trained": 8000 * step,
        }
        if method != "rl":
            rows.append(row | {"loss": 2.3 * (1 - done) + 0.2 + rng.gauss(0, 0.03), "timing": timing})
            continue
        reward = min(1.0, max(0.0, start + (end - start) * done + rng.gauss(0, 0.02)))
        row |= {"reward": reward, "signal": reward, "scratchpad_rate": min(1.0, 0.2 + (pad_rate - 0.2) * done)}
        row |= {
            "live_groups": 0.75 - 0.5 * done * (end - start) / 0.4,
            "entropy": 0.32 - 0.2 * done + rng.gauss(0, 0.01),
        }
        row |= {"response_tokens": 9 + 30 * row["scratchpad_rate"] + rng.gauss(0, 1), "truncated": 0.02 * (1 - done)}
        rows.append(row | {"tokens_generated": 11776 * step, "timing": timing})
    return rows


def write_run(folder: Path, name: str, seed: int) -> list[dict[str, Any]]:
    method, accuracy, pad_rate = ARMS[name]
    rng = random.Random(f"{name}/{seed}")
    cells = [
        cell(rng, length, decoding, share * factor, pad_rate)
        for decoding, factor in (("greedy", 1.0), ("temperature=1", 0.96))
        for length, share in zip(LENGTHS, accuracy, strict=True)
    ]
    (folder / "eval").mkdir(parents=True)
    recipe = f"name: {name}\nmethod: {method}\nseed: {seed}\nformat: compact\n"
    recipe += f"scratchpad: {'empty' if name == 'no-scratchpad' else 'free'}\n"
    if method == "rl":
        recipe += f"rl:\n  prompts_per_step: 64\n  signal: {'random' if name == 'random-reward' else 'answer'}\n"
    if method == "pretrain":
        recipe += "pretrain:\n  documents_per_step: 256\n  scratchpad_share: 0.2\n"
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.15", "versions": {"torch": "2.11.0"}}))
    rows = metrics(rng, method, 0.55, sum(accuracy[:4]) / 4, pad_rate)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "eval" / "5.json").write_text(json.dumps({"step": 5, "policy": "stale", "cells": []}))
    (folder / "eval" / "120.json").write_text(
        json.dumps({"step": 120, "policy": f"{name}/seed-{seed}", "cells": cells})
    )
    lines = (json.dumps(record) + "\n" for record in responses(rng, accuracy, pad_rate))
    (folder / "eval" / "120.jsonl").write_text("".join(lines))
    return [{"seed": seed, **c} for c in cells]


def write_experiment(folder: Path, seeds: tuple[int, ...] = (0,)) -> Path:
    """An experiment folder of six arms, as `latentpad ablate` leaves it, with invented numbers."""
    arms, comparisons = [], []
    for name, (method, _, _) in ARMS.items():
        cells = [c for seed in seeds for c in write_run(folder / name / f"seed-{seed}", name, seed)]
        steps, generated = (120, 11776 * 120) if method == "rl" else (300, 0)
        cost = {
            "samples": 512 * steps,
            "tokens_generated": generated,
            "tokens_trained": 8000 * steps,
            "seconds": 0.71 * steps,
        }
        arms.append(
            {
                "arm": name,
                "description": "advantages from rewards dealt out at random" if name == "random-reward" else "",
                "method": method,
                "from": None if method == "pretrain" else "base",
                "seeds": list(seeds),
                "cells": cells,
                "costs": [{"seed": seed, **cost} for seed in seeds],
                "status": "done",
            }
        )
        for c in cells:
            if name != "base" and c["decoding"] == "greedy":
                base = next(b for b in arms[0]["cells"] if (b["seed"], b["cell"]) == (c["seed"], c["cell"]))
                gap = c["accuracy"] - base["accuracy"]
                comparisons.append(
                    {
                        "arm": name,
                        "baseline": "base",
                        "seed": c["seed"],
                        "cell": c["cell"],
                        "decoding": "greedy",
                        "n": 500,
                    }
                    | {"only_arm": max(0, round(gap * 500)) + 9, "only_baseline": max(0, -round(gap * 500)) + 9}
                    | {"difference": gap, "low": gap - 0.02, "high": gap + 0.02, "p_value": 10 ** (-abs(gap) * 30)}
                )
    machine = {"cpu": "a laptop's CPU", "cores": 2, "memory_gb": 24, "python": "3.11.15", "torch": "2.11.0"}
    summary = {
        "experiment": "demo",
        "key": "0f3a9c",
        "created": "2025-11-21T14:00:00+00:00",
        "command": "latentpad ablate recipes/demo.yaml",
        "machine": machine,
        "train_cells": [f"digits={d}" for d in range(1, 5)],
        "arms": arms,
        "comparisons": comparisons,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text of the page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def accuracies(self) -> dict[tuple[str | None, ...], float]:
        names = ("data-arm", "data-cell", "data-decoding", "data-seed")
        cells = [a for _, a in self.tags if "data-accuracy" in a]
        return {tuple(a[n] for n in names): float(a["data-accuracy"] or "") for a in cells}


def edit_summary(folder: Path, **changes: Any) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_response(folder: Path, **changes: Any) -> None:
    """Change the base's first wrong response of the longest trained cell: the page is sure to show it."""
    path = folder / "base" / "seed-0" / "eval" / "120.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = next(r for r in records if r["cell"] == "digits=4" and r["outcome"] != "CORRECT")
    wrong |= {"outcome": "UNPARSEABLE"} | changes
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return write_experiment(tmp_path)


def test_the_page_holds_exactly_the_accuracies_of_the_summary(experiment: Path) -> None:
    arms = json.loads((experiment / "summary.json").read_text())["arms"]
    expected = {(a["arm"], c["cell"], c["decoding"], "0"): c["accuracy"] for a in arms for c in a["cells"]}

    assert Tags(write_report(experiment)).accuracies() == expected
    assert len(expected) == 6 * 6 * 2


def test_of_several_seeds_it_holds_each_and_their_mean(tmp_path: Path) -> None:
    write_experiment(tmp_path, seeds=(0, 1, 2))
    arms = json.loads((tmp_path / "summary.json").read_text())["arms"]
    expected: dict[tuple[str, ...], float] = {}
    for arm in arms:
        for c in arm["cells"]:
            key = (arm["arm"], c["cell"], c["decoding"])
            seeds = [o["accuracy"] for o in arm["cells"] if (o["cell"], o["decoding"]) == key[1:]]
            expected[(*key, str(c["seed"]))] = c["accuracy"]
            expected[(*key, "mean")] = pytest.approx(sum(seeds) / 3, abs=1e-12)

    assert Tags(write_report(tmp_path)).accuracies() == expected
    assert len(expected) == 6 * 6 * 2 * 4


def test_the_headline_is_made_of_the_numbers(experiment: Path) -> None:
    arms = json.loads((experiment / "summary.json").read_text())["arms"]
    for arm in arms:
        for c in arm["cells"]:
            c |= {"accuracy": 0.25 if arm["arm"] == "base" else 0.75, "scratchpad_rate": 0.125}
    edit_summary(experiment, arms=arms)
    sentence = "answers-only: 25.0% → 75.0% at digits=4, scratchpads in 12.5% → 12.5% of responses"

    assert f"{sentence}, trained on final answers alone." in Tags(write_report(experiment)).text


def test_an_experiment_can_name_the_cell_of_its_headline(experiment: Path) -> None:
    path = experiment / "summary.json"
    summary = json.loads(path.read_text())
    for named, shown in (("digits=2", "at digits=2,"), ("digits=99", "at digits=4,"), (None, "at digits=4,")):
        path.write_text(json.dumps(summary | {"headline": named}))
        assert shown in Tags(write_report(experiment)).text


def test_a_table_of_many_cells_has_its_costs_below(experiment: Path) -> None:
    summary = json.loads((experiment / "summary.json").read_text())
    assert "costs" not in experiment_table(summary)
    for arm in summary["arms"]:
        few = [c for c in arm["cells"] if c["cell"] == "digits=1"]
        arm["cells"] += [c | {"cell": f"digits={n}", "accuracy": 0.125} for n in range(7, 18) for c in few]
    lines = experiment_table(summary).splitlines()
    head = next(line for line in lines if "arm" in line)
    assert head.split()[1::2] == ["arm", *map(str, range(1, 18))]
    row = next(line for line in lines if "answers-only" in line)
    assert row.split()[-2] == "12.5"
    assert row.split()[3] == f"{100 * summary['arms'][3]['cells'][0]['accuracy']:.1f}"
    assert any("rollouts or examples" in line for line in lines)
    assert max(map(len, lines)) <= 150


def test_a_control_is_never_said_to_learn_from_answers(experiment: Path) -> None:
    arms = [
        a
        for a in json.loads((experiment / "summary.json").read_text())["arms"]
        if a["arm"] in ("base", "random-reward")
    ]
    edit_summary(experiment, arms=arms)
    text = Tags(write_report(experiment)).text

    assert "random-reward: " in text
    assert "trained on final answers alone" not in text


def test_the_same_input_gives_the_same_bytes(experiment: Path) -> None:
    assert write_report(experiment).read_bytes() == write_report(experiment).read_bytes()


def test_the_page_is_self_contained_and_its_ids_are_unique(experiment: Path) -> None:
    path = write_report(experiment)
    page = Tags(path)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    used = re.findall(r"url\((#?)([^)]*)\)", path.read_text(encoding="utf-8"))

    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a in ("src", "href", "xlink:href")]
    assert {("#", id_) for id_ in ids} == set(used)
    assert len(ids) == len(set(ids)) > 0


def test_a_drawing_has_no_colour_of_its_own(experiment: Path) -> None:
    html = write_report(experiment).read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)

    assert len(drawings) == 2 + 7 + 6 + 1 + len(re.findall(r'class="arm"', html)) + 3 + 3
    assert not [d for d in drawings if re.search(r"(fill|stroke): #", d)]


def test_what_others_published_is_drawn_where_the_page_has_its_cells(experiment: Path) -> None:
    path = experiment / "summary.json"
    bare = Tags(write_report(experiment)).text
    summary = json.loads(path.read_text())
    band = {"label": "Somebody 2021", "cells": ["digits=3", "digits=4"], "low": 0.6, "high": 0.9}
    path.write_text(json.dumps(summary | {"published": [band, band | {"label": "Nobody", "cells": ["digits=99"]}]}))
    text = Tags(write_report(experiment)).text
    assert text.count("Somebody 2021") == 2  # in the wide and in the narrow drawing
    assert "Nobody" not in text
    assert "Somebody" not in bare


def test_hostile_text_is_shown_and_never_obeyed(experiment: Path) -> None:
    set_response(experiment, response="86")
    harmless = Tags(write_report(experiment)).tags
    hostile = "</pre></article>'\"&amp;<img src=x onerror=y><script>alert(1)</script>\x00\u202e\ud800"
    set_response(experiment, response=hostile, gold=hostile, prompt=hostile)
    page = Tags(write_report(experiment))

    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless]
    assert (
        page.text.count("</pre></article>'\"&amp;<img src=x onerror=y><script>alert(1)</script>\u2400\ufffd\ufffd") == 3
    )


def test_a_hostile_arm_is_only_text(experiment: Path) -> None:
    arms = json.loads((experiment / "summary.json").read_text())["arms"]
    arms[0]["arm"] = '<script>"x'
    arms[0]["status"] = arms[0]["description"] = "failed: <script>"
    edit_summary(experiment, arms=arms, train_cells=[], command="<script>")

    assert "script" not in {tag for tag, _ in Tags(write_report(experiment)).tags}


@pytest.mark.parametrize(
    ("response", "pad", "rest"),
    [
        ("", "", ""),
        ("86", "", "86"),
        ("<scratch>2+5</scratch>86", "<scratch>2+5</scratch>", "86"),
        ("<scratch>2+5", "<scratch>2+5", ""),
        ("<scratch>a</scratch>1</scratch>86", "<scratch>a</scratch>1</scratch>", "86"),
        ("2+5</scratch>86", "2+5</scratch>", "86"),
        ("<scratch></scratch>", "<scratch></scratch>", ""),
    ],
)
def test_a_response_is_cut_after_its_last_closing_tag(response: str, pad: str, rest: str) -> None:
    assert split_response(response) == (pad, rest)


def test_an_endless_response_is_bounded() -> None:
    assert len(visible("9" * 100_000)) < 7000
    assert "94000 more characters" in visible("9" * 100_000)


def test_an_empty_response_is_called_so(experiment: Path) -> None:
    set_response(experiment, response="", answer=None)

    assert "empty response" in Tags(write_report(experiment)).text


def test_a_failed_arm_says_why_and_the_others_stand(experiment: Path) -> None:
    arms = json.loads((experiment / "summary.json").read_text())["arms"]
    arms[1] |= {"cells": [], "costs": [], "status": "failed: out of memory", "seeds": [7]}
    edit_summary(experiment, arms=arms)
    page = Tags(write_report(experiment))

    assert "failed: out of memory" in page.text
    assert len(page.accuracies()) == 5 * 6 * 2


def test_without_any_evaluation_the_page_says_so(experiment: Path) -> None:
    arms = json.loads((experiment / "summary.json").read_text())["arms"]
    edit_summary(experiment, arms=[a | {"cells": []} for a in arms], comparisons=[])

    assert "No evaluation yet: 6 arms, none evaluated." in Tags(write_report(experiment)).text


def test_an_experiment_of_nothing_is_still_a_page(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{}")

    assert "The summary lists no arms." in Tags(write_report(tmp_path)).text


def test_a_run_folder_gives_the_same_page_of_one_arm(experiment: Path) -> None:
    page = Tags(write_report(experiment / "answers-only" / "seed-0"))
    cells = json.loads((experiment / "answers-only" / "seed-0" / "eval" / "120.json").read_text())["cells"]
    expected = {("answers-only/seed-0", c["cell"], c["decoding"], "0"): c["accuracy"] for c in cells}

    assert page.accuracies() == expected
    assert "trained on final answers alone" in page.text


def test_a_run_that_has_just_begun_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')

    assert "No evaluation yet: 1 arm, none evaluated." in Tags(write_report(tmp_path)).text


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "neither summary.json"),
        ({"summary.json": "{"}, "summary.json: not readable as JSON"),
        ({"summary.json": "[]"}, "expected a JSON object, got list"),
        ({"metrics.jsonl": '{"step": 1\n{"step": 2}\n'}, "metrics.jsonl:1: not JSON"),
    ],
)
def test_a_wrong_folder_is_told_in_one_line(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=re.escape(says)) as error:
        write_report(tmp_path)

    assert "\n" not in str(error.value)


def test_no_such_folder_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_the_mean_over_seeds_is_taken_where_all_have_a_value() -> None:
    arm = ArmLines(mark_of(0), (SeedLine((1, 2, 3), (0.0, 0.5, 1.0)), SeedLine((2, 3), (1.0, 0.5))))

    assert arm.mean() == SeedLine((2, 3), (0.75, 0.75))
    assert moving_mean([0, 3, 6, 3], 3).tolist() == [1.5, 3.0, 4.0, 4.5]


def test_no_two_arms_look_alike() -> None:
    marks = {mark_of(index) for index in range(40)}

    assert len(marks) == 40
