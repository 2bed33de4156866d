"""`latentpad compare`: which runs it takes, numbers worked by hand, and what it prints and writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from scipy.stats import t

from latentpad.cli import main
from latentpad.experiments.comparison import MEAN, compare_folders
from latentpad.experiments.comparison_text import markdown, terminal
from latentpad.recipe.errors import RecipeError
from tests.experiments.finished_runs import STEP, tally, write_evaluation, write_run

if TYPE_CHECKING:
    from pathlib import Path

# Ten problems; b is right at 9 and 8, a at 5 and 6, all that a can b can in seed 0.
A0, A1 = "1111100000", "1111110000"
B0, B1 = "1111111110", "1111101110"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for seed, a, b in [(0, A0, B0), (1, A1, B1)]:
        write_run(tmp_path / "x", "a", seed, {"digits=1": a})
        write_run(tmp_path / "x", "b", seed, {"digits=1": b}, scratchpad="empty")
    return tmp_path / "x"


def compare(*folders: Path, **options: Any) -> dict[str, Any]:
    return compare_folders(folders, **{"differ": ["scratchpad"], **options})


def test_numbers_worked_by_hand(home: Path) -> None:
    (row,) = compare(home)["cells"]
    a, b = row["arms"]
    assert (row["cell"], row["problems"]) == ("digits=1", 10)
    assert (a["each_seed"], b["each_seed"]) == ([0.5, 0.6], [0.9, 0.8])
    assert (b["mean"], b["min"], b["max"]) == (pytest.approx(0.85), 0.8, 0.9)
    assert (b["success"]["successes"], a["success"]["successes"]) == (1, 0)
    (c,) = row["comparisons"]
    # Differences 0000011110 and 00000-1 1110: of seeds 0.4 and 0.2, of problems 0 six times, 1 three times, 0.
    # V_seed = 0.02 / 2, V_problem = (3 * 0.49 + 7 * 0.09) / 9 / 10 = 0.07 / 3,
    # V_rest = (6.2 - 0.2 - 4.2) / 9 / 20 = 0.01: variance 0.01 + 0.07 / 3 - 0.01 = 0.07 / 3,
    # df the lesser of (7 / 3)^2 and 2 * 7 / 3.
    assert c["difference"] == pytest.approx(0.3)
    assert c["df"] == pytest.approx(14 / 3)
    spread = float(t.ppf(0.975, 14 / 3)) * (0.07 / 3) ** 0.5
    assert (c["low"], c["high"]) == (pytest.approx(0.3 - spread), pytest.approx(0.3 + spread))
    assert [(m["only_arm"], m["only_baseline"], m["p_value"]) for m in c["mcnemar"]] == [(4, 0, 0.125), (3, 1, 0.625)]
    assert (c["seeds"], c["over"], c["family"]) == (2, "seeds and problems", 1)
    assert c["p_holm"] == c["p_value"]


def test_arms_in_another_order_give_the_mirrored_difference(home: Path) -> None:
    (one,) = compare(home)["cells"][0]["comparisons"]
    for other in (
        compare(home, baseline="b")["cells"][0]["comparisons"],
        compare(home / "b", home / "a")["cells"][0]["comparisons"],
    ):
        assert (other[0]["arm"], other[0]["p_value"]) == ("a", pytest.approx(one["p_value"]))
        for key, mirrored in [("difference", "difference"), ("low", "high"), ("high", "low")]:
            assert other[0][key] == pytest.approx(-one[mirrored])
        assert [m["only_baseline"] for m in other[0]["mcnemar"]] == [4, 3]


def test_runs_arms_and_experiments_name_the_same_arms(home: Path) -> None:
    whole = compare(home)
    assert compare(home / "a", home / "b") == whole
    assert compare(*(home / arm / f"seed-{s}" for arm in "ab" for s in (0, 1))) == whole
    assert compare(home, home / "b" / "seed-1") == whole  # named twice, counted once


def test_an_unfinished_run_is_named_and_left_out(home: Path) -> None:
    (home / "b" / "seed-0" / "done.json").unlink()
    found = compare(home)
    assert found["left_out"] == [f"{home}/b/seed-0: left out: not finished (no done.json)"]
    assert found["notes"][0] == "a: seeds 0 left out: not finished in every arm"
    assert found["notes"][1].startswith("one seed: ")
    assert found["seeds"] == [1]
    (c,) = found["cells"][0]["comparisons"]
    assert (c["over"], c["difference"]) == ("problems of one seed", pytest.approx(0.2))
    for text in (terminal(found), markdown(found)):
        assert "b/seed-0: left out" in text
        assert "a: seeds 0 left out" in text


def test_a_run_that_failed_is_told_from_one_that_is_not_finished(home: Path) -> None:
    (home / "b" / "seed-0" / "done.json").unlink()
    (home / "b" / "seed-0" / "error.txt").write_text("Traceback\n")
    assert compare(home)["left_out"] == [f"{home}/b/seed-0: left out: failed (see its error.txt)"]


def test_arms_that_share_no_seed_are_refused(home: Path) -> None:
    (home / "b" / "seed-0" / "done.json").unlink()
    (home / "a" / "seed-1" / "done.json").unlink()
    with pytest.raises(RecipeError, match=r"no seed is finished in every arm: a \[0\], b \[1\]"):
        compare(home)


def test_too_little_to_compare_is_refused(home: Path) -> None:
    for seed in (0, 1):
        (home / "b" / f"seed-{seed}" / "done.json").unlink()
    with pytest.raises(
        RecipeError, match=r"two finished arms or more, got a: .*b/seed-0: left out.*b/seed-1: left out"
    ):
        compare(home)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"baseline": "c"}, "--baseline: unknown arm 'c'"),
        ({"cell": "digits=7"}, "--cell: unknown cell 'digits=7'"),
        ({"decoding": "warm"}, "--decoding: unknown decoding 'warm'"),
    ],
)
def test_what_is_not_there_is_refused(home: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        compare(home, **options)


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        compare(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="holds no run"):
        compare(tmp_path)


def test_another_run_of_the_same_arm_and_seed_is_refused(home: Path) -> None:
    (home / "a" / "seed-0").rename(home.parent / "alone")
    write_run(home, "a", 0, {"digits=1": A0})
    with pytest.raises(RecipeError, match="a second run of arm 'a' with seed 0"):
        compare(home, home.parent / "alone")


def test_arms_of_one_name_in_two_experiments_are_told_apart(home: Path) -> None:
    write_run(home.parent / "y", "a", 0, {"digits=1": A1})
    names = [arm["arm"] for arm in compare(home, home.parent / "y")["arms"]]
    assert names == ["x/a", "b", "y/a"]


def test_other_problems_than_the_baseline_had_are_refused(home: Path) -> None:
    write_evaluation(home / "b" / "seed-1", STEP, {"digits=1": B1 + "1"})
    with pytest.raises(RecipeError, match=r"seed-1: other problems at digits=1 than .*seed-0 \(11 and 10\)"):
        compare(home)


def two_cells(home: Path, name: str, seed: int, one: str, two: str) -> None:
    task = {"name": "addition", "digits": [1, 2]}
    write_run(home, name, seed, {"digits=1": one, "digits=2": two, "digits=3": "0011"}, task=task)


def test_the_mean_of_trained_cells_counts_each_alike_and_leaves_out_what_is_beyond(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        two_cells(tmp_path, "a", seed, "10", "0000")
        two_cells(tmp_path, "b", seed, "11", "0001")
    found = compare(tmp_path, differ=[])
    mean, *cells = found["cells"]
    assert (mean["cell"], mean["problems"]) == (MEAN, 6)
    assert [row["cell"] for row in cells] == ["digits=1", "digits=2", "digits=3"]
    assert mean["arms"][1]["each_seed"] == [0.625] * 3
    (c,) = mean["comparisons"]
    assert c["difference"] == pytest.approx(0.375)  # (1/2 + 1/4) / 2, not 2 of 6
    assert c["mcnemar"][0]["n"] == 6
    assert c["family"] == 4
    assert compare(tmp_path, differ=[], cell="digits=2")["cells"][0]["comparisons"][0]["family"] == 1


def test_p_values_are_corrected_over_all_that_is_shown(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        two_cells(tmp_path, "a", seed, "10" * 10, "0001" * 10)
        two_cells(tmp_path, "b", seed, "11" * 10, "0011" * 10)
        two_cells(tmp_path, "c", seed, "10" * 10, "0101" * 10)
    family = [c for row in compare(tmp_path, differ=[])["cells"] for c in row["comparisons"]]
    least = min(family, key=lambda c: c["p_value"])
    assert len(family) == least["family"] == 8
    assert least["p_holm"] == pytest.approx(8 * least["p_value"])


def test_costs_are_its_own_and_those_of_what_it_started_from(tmp_path: Path) -> None:
    write_run(tmp_path, "base", 0, {"digits=1": A0}, method="pretrain", counters={"samples": 1000, "seconds": 60})
    start = {"path": str(tmp_path / "base" / "seed-0" / "checkpoints" / str(STEP))}
    write_run(tmp_path, "a", 0, {"digits=1": A0}, model=start)
    write_run(tmp_path, "b", 0, {"digits=1": B0}, model={"path": "elsewhere/model"})
    a, b = compare(tmp_path / "a", tmp_path / "b", differ=["model.path"])["arms"]
    assert (a["own_costs"]["samples"], a["total_costs"]["samples"]) == ([100], [1100])
    assert (a["total_costs"]["seconds"], a["total_costs"]["tokens_trained"]) == ([70], [600])
    assert b["total_costs"] is None  # a start that is no run here: not known, not nothing


def test_curves_have_a_point_for_each_evaluation_with_what_was_spent_by_then(home: Path) -> None:
    folder = home / "b" / "seed-0"
    lines = [
        {
            "step": s,
            "samples": 10 * s,
            "tokens_generated": s,
            "tokens_trained": 2 * s,
            "timing": {"total_seconds": s / 2},
        }
        for s in range(1, 13)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 13, "sam')
    write_evaluation(folder, 0, {"digits=1": "1000"})
    write_evaluation(folder, 4, {"digits=1": "1100"})
    write_evaluation(folder, 12, {"digits=1": "1111"})  # of steps that were rolled back
    curve = next(c for c in compare(home)["curves"] if (c["arm"], c["seed"]) == ("b", 0))
    assert [tuple(p.values()) for p in curve["points"]] == [
        (0, 0.25, 0, 0, 0),
        (4, 0.5, 40, 12, 2),
        (STEP, 0.9, 100, 300, 10),
    ]


def tried(right: int, wrong: int) -> list[dict[str, Any]]:
    return [tally("digits=1", f"p{i}", ("7", True, right), ("8", False, wrong)) for i in range(3)]


def test_many_tries_give_pass_and_majority_and_where_the_base_catches_up(tmp_path: Path) -> None:
    never = tally("digits=1", "p3", ("8", False, 4))
    for seed in (0, 1):
        # a: 1 of 4 right at every problem. b: 3 of 4 at three problems, and never at the fourth.
        write_run(
            tmp_path,
            "a",
            seed,
            {"digits=1": A0},
            tries=[*tried(1, 3), tally("digits=1", "p3", ("7", True, 1), ("8", False, 3))],
        )
        write_run(tmp_path, "b", seed, {"digits=1": B0}, tries=[*tried(3, 1), never])
        write_run(tmp_path, "c", seed, {"digits=1": B0})
    found = compare(tmp_path, differ=[])
    (row,) = found["tries"]["cells"]
    a, b = row["arms"]
    assert (found["tries"]["n"], found["tries"]["without"], row["problems"]) == (4, ["c"], 4)
    assert [p["k"] for p in a["points"]] == [1, 2, 4]
    assert [p["pass"] for p in a["points"]] == pytest.approx([0.25, 0.5, 1.0])
    assert [p["pass"] for p in b["points"]] == pytest.approx([0.5625, 0.75, 0.75])
    assert [p["maj"] for p in a["points"]] == pytest.approx([0.25, 0.25, 0.0], abs=0.02)
    assert [p["maj"] for p in b["points"]] == pytest.approx([0.5625, 0.5625, 0.75], abs=0.02)
    assert b["crosses_at"] == 3  # pass@3 of a is 0.75
    assert [p["difference"] for p in b["points"]] == pytest.approx([0.3125, 0.25, -0.25])
    assert "a is at or above it from k=3" in terminal(found)


def test_without_tries_of_two_arms_there_is_no_such_section(home: Path) -> None:
    assert compare(home)["tries"] is None
    assert "pass@k" not in terminal(compare(home))


def test_the_command_prints_and_writes_what_it_found(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, numbers = tmp_path / "compare.md", tmp_path / "compare.json"
    arguments = [
        "compare",
        str(home),
        "--differ",
        "scratchpad",
        "--success",
        "0.8",
        "--out",
        str(out),
        "--json",
        str(numbers),
    ]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "b against a: scratchpad empty instead of free" in printed
    assert "90.0 / 80.0" in printed
    assert "2/2" in printed  # both seeds at 80% or more
    assert "+30.0 (" in printed
    assert "0.12 / 0.62" in printed
    text = out.read_text()
    assert "|  | b | 90.0 / 80.0 | 85.0 | 85.0 | 80.0-90.0 | 2/2 (16%-100%) | +30.0 (" in text
    assert "![accuracy against what was spent](compare.png)" in text
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(numbers.read_text())["cells"][0]["comparisons"][0]["difference"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "differ in what nobody declared: scratchpad (empty and free)"),
        (["--success", "0"], "--success 0: expected an accuracy"),
        (["--out", "x.html"], "--out x.html: expected a Markdown file"),
        (["--json", "no/where.json"], "--json no/where.json: expected a file in a folder that is there"),
    ],
)
def test_bad_input_is_told_in_one_line_with_code_2(
    home: Path, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(home), *options]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
