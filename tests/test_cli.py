"""The command line: help at once, bad input refused in one line before anything heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from latentpad import __version__
from latentpad.cli import main
from latentpad.recipe.errors import Diverged, MachineError, Stopped
from reward import BadOptions, GoldAnswerError, MissingPackage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Written = Callable[..., Path]
    Data = dict[str, Any]

VERBS = ["check", "train", "eval", "ablate", "compare", "report", "sample", "export", "doctor"]
HEAVY = ("torch", "transformers", "trl", "peft", "ray", "matplotlib", "scipy")
# Runs each line of arguments in one process; prints its exit code and what heavy modules are loaded by then.
BATCH = f"""
import json, sys
from latentpad.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code or 0
    print("RESULT", json.dumps([code, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""


def shared(recipe_data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's keys as an experiment may share them: arms and seeds name themselves."""
    return {key: value for key, value in recipe_data.items() if key not in ("name", "seed")}


def in_a_new_process(lines: list[list[str]]) -> list[tuple[int, list[str]]]:
    command = [sys.executable, "-c", BATCH, json.dumps(lines)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [tuple(json.loads(line.removeprefix("RESULT "))) for line in out.splitlines() if line.startswith("RESULT ")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """What is said on stderr, after it was found to be one line and nothing to be on stdout."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("latentpad: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err.removeprefix("latentpad: ").rstrip("\n")


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_comes_in_half_a_second(verb: str | None) -> None:
    command = [sys.executable, "-m", "latentpad", *([verb] if verb else []), "--help"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0
        assert result.stdout.startswith(f"usage: latentpad {verb or ''}".rstrip())
    assert min(seconds) < 0.5


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    listed = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ") and line[4] != " "
    ]
    assert listed == VERBS


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"latentpad {__version__}\n"


def test_help_and_refusals_load_nothing_heavy(written: Written, recipe_data: Data, tmp_path: Path) -> None:
    good = str(written(recipe_data))
    plan = str(
        written({"experiment": "e", "seeds": [0], "shared": shared(recipe_data), "arms": {"a": {}}}, "plan.yaml")
    )
    lines = [["--help"], *([verb, "--help"] for verb in VERBS)]
    lines += [["check", plan], ["check", good, "training.steps=x"]]
    lines += [["train", good, "training.stepz=1"], ["train", good, "rollout.max_new_tokens=9"], ["train", plan]]
    lines += [["ablate", plan, "shared.rl.group_size=3"], ["ablate", plan, "arms.a.formt=x"], ["ablate", good]]
    lines += [["eval", str(tmp_path)], ["sample", str(tmp_path), "1+1"], ["sample", str(tmp_path), "--count", "0"]]
    lines += [["train", good, "--out", good], ["ablate", plan, "--out", good]]
    lines += [["export", str(tmp_path), "--to", good], ["export", str(tmp_path), "--to", "new", "--adapter"]]
    results = in_a_new_process(lines)
    assert len(results) == len(lines) == 25
    assert [code for code, _ in results] == [0] * 11 + [2] * 14
    assert [heavy for _, heavy in results] == [[]] * 25
    # what a recipe will take is told from its model's config, by the library that knows it
    [(code, heavy)] = in_a_new_process([["check", good]])
    assert code == 0
    assert {"torch", "transformers"} <= set(heavy) <= {"torch", "transformers", "scipy"}


def test_check_says_what_is_good(written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(recipe_data)
    assert main(["check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok  gold answers grade CORRECT, and a changed one does not"
    assert lines[-1] == f"{path}: good (recipe 'small')"
    assert lines[-2].startswith("ok  memory: about ")
    assert len(lines) == 6


def test_check_takes_an_experiment(written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    del recipe_data["name"]
    path = written(
        {"experiment": "e", "seeds": [0], "shared": shared(recipe_data), "arms": {"a": {}, "b": {"like": "a"}}}
    )
    assert main(["check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{path}: good (plan 'e')"
    assert [line.split(":")[0] for line in lines[:-1]] == ["ok  arms.a"] * 4 + ["ok  arms.b"] * 4


def test_a_full_check_proves_the_loop_and_leaves_nothing(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe_data["rl"]["kl"] = {"coef": 0.1}
    path = written(recipe_data)
    assert main(["check", str(path), "--full"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[-1] == f"{path}: good (recipe 'small')"
    assert all(line.startswith("ok  ") for line in lines[:-1])
    # 4 that need no model, the memory, 5 of every start (KL is one), 3 that are only asked for
    assert lines[4].startswith("ok  memory: about ")
    assert [line.split(":")[0].split(",")[0] for line in lines[5:-1]] == [
        "ok  ratio is 1",
        "ok  the stop token is in the loss",
        lines[7],
        "ok  the engine follows the trained weights",
        "ok  a small step makes rewarded responses likelier than the others",
        "ok  the gradient does not depend on the split into micro-batches",
        "ok  a worst-case micro-batch",
        lines[12].split(":")[0].split(",")[0],
    ]
    assert lines[7].startswith("ok  KL to reference 'base' is ")
    assert lines[12].startswith("ok  a step takes about ")
    assert list(tmp_path.iterdir()) == [path]


def test_a_proof_that_fails_ends_a_full_check_with_3(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentpad.training import proofs

    def fail(*_: object) -> str:
        raise proofs.ProofFailed("sampler and learner disagree")

    monkeypatch.setattr(proofs, "ratio_is_one", fail)
    assert main(["check", str(written(recipe_data)), "--full"]) == 3
    out, err = capsys.readouterr()
    assert err == "latentpad: sampler and learner disagree\n"
    assert "good (recipe" not in out


def test_a_full_check_is_of_one_rl_run(written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"experiment": "e", "seeds": [0], "shared": shared(recipe_data), "arms": {"a": {}}}
    path = written(plan, "plan.yaml")
    assert main(["check", str(path), "--full"]) == 2
    line = f"latentpad: {path}: --full needs a model on disk: give the recipe.yaml of one of its runs\n"
    assert capsys.readouterr().err == line
    del recipe_data["rl"], recipe_data["algorithm"]
    recipe_data |= {"method": "supervised", "supervised": {"target": "answer", "examples_per_step": 2}}
    assert main(["check", str(written(recipe_data)), "--full"]) == 2
    line = "latentpad: --full proves the loop of method 'rl'; this recipe's method is 'supervised'\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("verb", ["check", "train"])
@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "rl.group_sise=4",
            "rl.group_sise: unknown key 'group_sise'; did you mean 'group_size'?"
            " (allowed: cells, entropy_coef, epochs, group_size, half_length, kl, ladder, minibatches,"
            " problems, prompts_per_step, signal)",
        ),
        ("training.steps=ten", "training.steps: got 'ten'; input should be a valid integer"),
        ("training.steps=", "training.steps: got None; input should be a valid integer"),
        ("method=sft", "method: got 'sft'; allowed: 'pretrain', 'supervised', 'rl', 'expert_iteration' or 'prompt'"),
        ("supervised={target: answer}", "supervised.examples_per_step: missing: this key is required"),
        (
            "format=compat",
            "format: unknown format 'compat'; did you mean 'compact'? (allowed: chat, compact, lines, nye)",
        ),
        ("task.spelling=nya", "task.spelling: got 'nya'; did you mean 'nye'? allowed: 'compact', 'nye' or 'hints'"),
        ("task.digits=[1, x]", "task.digits.1: got 'x'; input should be a valid integer"),
        ("rl.group_size=3", "rollout.chunk_size: got 8; expected a multiple of rl.group_size (3)"),
        (
            "rollout.max_new_tokens=34",
            "rollout.max_new_tokens: got 34; the longest gold response of digits=2 takes 35 tokens:"
            " set it to 35 or more",
        ),
    ],
)
def test_a_bad_key_is_one_line_with_file_key_got_and_allowed(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], verb: str, override: str, line: str
) -> None:
    path = written(recipe_data)
    assert refused(capsys, verb, path, override) == f"{path}: {line}"


def test_a_fault_in_an_arm_names_file_arm_and_key(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(
        {"experiment": "e", "seeds": [0], "shared": shared(recipe_data), "arms": {"one": {}, "two": {"like": "one"}}}
    )
    assert refused(capsys, "check", path, "arms.two.rl.group_size=3") == (
        f"{path}: arms.two.rollout.chunk_size: got 8; expected a multiple of rl.group_size (3)"
    )
    assert refused(capsys, "ablate", path, "arms.two.formt=nye").startswith(
        f"{path}: arms.two: formt: unknown key 'formt'; did you mean 'format'? (allowed: "
    )


@pytest.mark.parametrize("text", ["a: [\nb: 1", "a: 1\na: 2", "- a\n- b", ""])
def test_a_file_that_is_no_recipe_is_one_line(written: Written, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = written(text)
    assert refused(capsys, "check", path).startswith(f"{path}: ")


@pytest.mark.parametrize("verb", ["check", "train", "ablate"])
def test_a_missing_file_is_named_with_the_nearest(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    path = written(recipe_data)
    wrong = path.with_name("recpie.yaml")
    assert refused(capsys, verb, wrong) == f"{wrong}: no such file; did you mean '{path}'?"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["chekc"], "did you mean 'check'? see 'latentpad --help'"),
        (["zebra"], "; see 'latentpad --help'"),
        ([], "the following arguments are required: VERB; see 'latentpad --help'"),
        (["report"], "the following arguments are required: FOLDER; see 'latentpad --help'"),
        (["sample", "run", "1+1", "--count", "x"], "argument --count: invalid int value: 'x'; see 'latentpad --help'"),
        (["train", "r.yaml", "--outt", "x"], "unrecognized arguments: --outt x; see 'latentpad --help'"),
        (["sample", "run", "1+1", "a=1"], "unrecognized arguments: a=1; see 'latentpad --help'"),
        (["check", "nowhere.yaml", "steps"], "nowhere.yaml: no such file"),
    ],
)
def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    assert refused(capsys, *arguments).endswith(line)


def test_an_override_without_a_value_is_named(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "check", written(recipe_data), "steps").endswith(
        "argument 'steps': expected key=value, such as training.steps=10"
    )


def test_an_override_may_follow_an_option(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = written(recipe_data)
    line = refused(capsys, "train", path, "seed=1", "--out", tmp_path / "run", "training.steps=0")
    assert line == f"{path}: recipe: 'training.steps' 0: expected 1 or more: method 'rl' trains"


def test_train_and_ablate_send_each_others_file_back(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = written(recipe_data)
    plan = written({"experiment": "e", "seeds": [0], "shared": shared(recipe_data), "arms": {"a": {}}}, "plan.yaml")
    assert refused(capsys, "train", plan) == f"{plan}: this is an experiment: run it with 'latentpad ablate {plan}'"
    assert refused(capsys, "ablate", recipe) == (
        f"{recipe}: this is one run's recipe: run it with 'latentpad train {recipe}'"
    )


def test_a_file_in_the_place_of_the_run_folder_is_refused(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(recipe_data)
    assert refused(capsys, "train", path, "--out", path) == f"--out {path}: is a file; expected a folder"


@pytest.mark.parametrize("verb", ["eval", "sample", "export"])
def test_a_folder_that_is_no_run_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str) -> None:
    assert refused(capsys, verb, tmp_path, *(["--to", tmp_path / "new"] if verb == "export" else [])) == (
        f"{tmp_path}: not a run folder (no recipe.yaml); give a folder such as runs/demo/answers-only/seed-0"
    )


@pytest.mark.parametrize("verb", ["eval", "sample"])
def test_a_run_without_a_checkpoint_is_named(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str
) -> None:
    written(recipe_data)
    assert refused(capsys, verb, tmp_path) == (
        f"{tmp_path}: has no checkpoint yet: run 'latentpad train' on its recipe first"
    )


def test_report_names_a_folder_that_holds_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert refused(capsys, "report", tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: no such folder; ")
    assert refused(capsys, "report", tmp_path).startswith(f"{tmp_path}: neither summary.json (an experiment) nor ")


def test_report_writes_the_page_of_a_run_and_says_where(
    written: Written, recipe_data: Data, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written(recipe_data)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5, "timing": {"total_seconds": 1.0}}\n')
    assert main(["report", str(tmp_path)]) == 0
    page = tmp_path / "report" / "index.html"
    assert capsys.readouterr().out == f"report: {page}\n"
    assert "small" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [["--count", "0"], ["--temperature", "-1"]])
def test_sample_refuses_a_count_or_a_temperature_that_cannot_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str]
) -> None:
    assert refused(capsys, "sample", tmp_path, "1+1", *options) == (
        "--count must be 1 or more and --temperature 0 or more"
    )


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (GoldAnswerError("gold answer 'x' is not an integer"), 2, "gold answer 'x' is not an integer"),
        (BadOptions("unknown grader 'x'"), 2, "unknown grader 'x'"),
        (Diverged("gradient norm is nan at step 3"), 2, "gradient norm is nan at step 3"),
        (MachineError("no such device"), 3, "no such device"),
        (MissingPackage("needs math-verify"), 3, "needs math-verify"),
        (Stopped("stopped at step 3;\ncheckpoint kept"), 130, "stopped at step 3; checkpoint kept"),
        (KeyboardInterrupt(), 130, "interrupted; what was checkpointed is kept"),
    ],
)
def test_each_end_has_its_exit_code_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, line: str
) -> None:
    def fail(args: object) -> int:
        raise raised

    monkeypatch.setitem(sys.modules["latentpad.cli"]._VERBS, "check", fail)
    assert refused(capsys, "check", "x.yaml", code=code) == line


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules["latentpad.cli"]._VERBS, "check", fail)
    with pytest.raises(ZeroDivisionError):
        main(["check", "x.yaml"])
