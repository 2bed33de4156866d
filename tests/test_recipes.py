"""Every recipe in recipes/ is loaded, checked and run for real, shrunk, through the command line's own path."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.cli import main
from latentpad.recipe.load import is_experiment, read_yaml
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent.parent / "recipes"
LAUNCH = FOLDER / "launch"
RECIPES = sorted([*FOLDER.glob("*.yaml"), *(FOLDER / "single").glob("*.yaml")])
EXPECTED = {
    "demo.yaml",
    "addition_nye_exact.yaml",
    "addition_dr_grpo.yaml",
    "polynomial.yaml",
    "python_programs.yaml",
    "ppo.yaml",
    "ppo_programs.yaml",
    "ppo_parts.yaml",
    "roll_back.yaml",
    "addition_ladder.yaml",
    "beyond_nye.yaml",
    "beyond_nye_scarce.yaml",
    "base.yaml",
    "grpo.yaml",
    "grpo_bf16.yaml",
    "grpo_ray.yaml",
    "grpo_ahead.yaml",
    "nye.yaml",
    "ppo_qlora.yaml",
    "methods.yaml",
    "methods_scarce.yaml",
    "more_ways.yaml",
    "prompt.yaml",
}
# Whose arms learn from a base's right responses: it must give some, so it learns sums of one digit for a moment.
SOLVES = {"methods.yaml", "methods_scarce.yaml", "more_ways.yaml"}
SOLVING = {"steps": 80, "learning_rate": 0.02, "matrix_learning_rate": 0.02, "checkpoint_every": 40}
# Rows of 4-bit weights are made of blocks of 64.
BLOCKS = {"hidden_size": 64, "intermediate_size": 64}
SMALL_MODEL = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_positions": 512}
SMALL_TRAINING = {"steps": 2, "warmup_steps": 1, "checkpoint_every": 1}


def shrunk(path: Path) -> list[str]:
    """Overrides that make a recipe small, and change nothing else of it."""
    data = read_yaml(path)
    if not is_experiment(data):
        steps = [] if data["method"] == "prompt" else _small("training.")
        return [*_small_run(data), "evaluation.problems=3", *steps]
    overrides = ["seeds=[0]", "shared.evaluation.problems=3"]
    if path.name in SOLVES:
        overrides += ["shared.task.digits=[1]", "shared.evaluation.beyond=[]"]
    for name, arm in data["arms"].items():
        overrides += _small_arm(f"arms.{name}.", arm, solves=path.name in SOLVES)
    return overrides


def _small_arm(where: str, arm: dict[str, Any], *, solves: bool) -> list[str]:
    overrides = []
    if "training" in arm:
        overrides += _small(f"{where}training.")
    if solves:
        overrides += _one_digit(where, arm)
    if "expert_iteration" in arm:  # two rounds of two steps
        overrides += _set(f"{where}training.", SMALL_TRAINING | {"steps": 4})
    if "pass_at" in arm.get("evaluation", {}):
        overrides += [f"{where}evaluation.pass_at=2", f"{where}evaluation.pass_problems=1"]
    if "pretrain" in arm:
        overrides.append(f"{where}pretrain.documents_per_step={32 if solves else 4}")
        overrides += _set(f"{where}training.", SOLVING) if solves and "method" in arm else []
    if "scratch" in arm.get("model", {}):
        overrides += _small_model(f"{where}model.scratch", arm)
    if "supervised" in arm:
        overrides.append(f"{where}supervised.examples_per_step=4")
    if arm.get("algorithm", {}).get("name") == "ppo":
        overrides.append(f"{where}algorithm.critic={{pretraining_steps: 1}}")
    if "prompts_per_step" in arm.get("rl", {}):
        overrides += [f"{where}rl.prompts_per_step=4", f"{where}rl.group_size=4"]
    return overrides


def _one_digit(where: str, arm: dict[str, Any]) -> list[str]:
    """Overrides that leave one cell of the task, and a base that solves some of its problems."""
    overrides = [
        f"{where}{section}.cells=[digits=1]"
        for section in ("rl", "expert_iteration")
        if "cells" in arm.get(section, {})
    ]
    if "every" in arm.get("evaluation", {}):
        overrides += [f"{where}evaluation.every=1", f"{where}evaluation.every_problems=2"]
    if "expert_iteration" in arm:
        small = {
            "prompts_per_round": 32,
            "samples_per_prompt": 4,
            "keep_per_prompt": 2,
            "rows_per_step": 4,
            "rounds": 2,
        }
        overrides += _set(f"{where}expert_iteration.", small)
    if "rationales" in arm.get("supervised", {}):
        overrides.append(f"{where}supervised.rationales=5")
    if arm.get("rl", {}).get("problems"):
        overrides.append(f"{where}rl.problems=4")
    return overrides


def _small_run(data: dict[str, Any]) -> list[str]:
    if data["method"] == "pretrain":
        return ["pretrain.documents_per_step=4", *_small_model("model.scratch", data)]
    if data["method"] == "supervised":
        return ["supervised.examples_per_step=4"]
    if data["method"] == "prompt":
        return ["evaluation.pass_at=2", "evaluation.pass_problems=1"]
    critic = ["algorithm.critic.pretraining_steps=1"] if data["algorithm"]["name"] == "ppo" else []
    return ["rl.prompts_per_step=4", "rl.group_size=4", *critic]


def _small_model(where: str, arm: dict[str, Any]) -> list[str]:
    """Of the same architecture, and where any layer goes without positions, all do."""
    scratch = arm["model"]["scratch"]
    kept = {"architecture": scratch["architecture"]} if "architecture" in scratch else {}
    bare = {"nope_layers": "all"} if "nope_layers" in scratch else {}
    return [f"{where}={json.dumps(SMALL_MODEL | kept | bare)}"]


def _small(where: str) -> list[str]:
    return _set(where, SMALL_TRAINING)


def _set(where: str, values: dict[str, Any]) -> list[str]:
    return [f"{where}{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shrunk demo, run once."""
    out = tmp_path_factory.mktemp("demo")
    path = next(p for p in RECIPES if p.name == "demo.yaml")
    assert main(["ablate", str(path), "--out", str(out), *shrunk(path)]) == 0
    return out


def summary_of(experiment: Path) -> dict[str, Any]:
    return json.loads((experiment / "summary.json").read_text())


def test_this_file_runs_every_recipe_there_is() -> None:
    assert {p.name for p in RECIPES} == EXPECTED


def test_the_demo_ends_with_every_arm_and_a_report(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(demo)
    arms = ["base", "direct", "nye", "answers-only", "random-reward", "no-scratchpad"]
    assert [arm["arm"] for arm in summary["arms"]] == arms
    assert all(len(arm["cells"]) == 2 * 6 for arm in summary["arms"])  # two decodings, one to six digits
    assert (demo / "report" / "index.html").is_file()
    assert "| no-scratchpad | " in (demo / "results.md").read_text()


def test_the_reports_numbers_are_those_of_the_summary(demo: Path) -> None:
    page = (demo / "report" / "index.html").read_text(encoding="utf-8")
    shown = {}
    for tag in re.findall(r"<[^>]*data-accuracy=[^>]*>", page):
        data = dict(re.findall(r'data-([a-z]+)="([^"]*)"', tag))
        shown[data["arm"], data["cell"], data["decoding"]] = float(data["accuracy"])
    expected = {
        (arm["arm"], cell["cell"], cell["decoding"]): cell["accuracy"]
        for arm in summary_of(demo)["arms"]
        for cell in arm["cells"]
    }
    assert shown == expected


def test_running_the_demo_again_reuses_everything(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.stat().st_mtime_ns for p in demo.glob("*/seed-0/**/*") if p.is_file()}
    path = next(p for p in RECIPES if p.name == "demo.yaml")
    assert main(["ablate", str(path), "--out", str(demo), *shrunk(path)]) == 0
    assert capsys.readouterr().out.count("re-used") == 6
    assert {p: p.stat().st_mtime_ns for p in demo.glob("*/seed-0/**/*") if p.is_file()} == before


def test_an_arm_whose_recipe_changed_runs_again_and_the_old_run_is_kept(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.yaml"
    path.write_text((next(p for p in RECIPES if p.name == "addition_nye_exact.yaml")).read_text())
    overrides = [*shrunk(path), "shared.task.digits=[1]", "shared.evaluation.beyond=[]"]
    out = tmp_path / "out"
    assert main(["ablate", str(path), "--out", str(out), *overrides]) == 0
    capsys.readouterr()
    assert main(["ablate", str(path), "--out", str(out), *overrides, "arms.nye.training.steps=3"]) == 0
    assert capsys.readouterr().out.count("re-used") == 2
    assert len(list((out / "nye").glob("seed-0.replaced-*"))) == 1
    assert json.loads((out / "nye" / "seed-0" / "done.json").read_text())["step"] == 3


def test_costs_are_counted_for_every_arm(demo: Path) -> None:
    costs = {arm["arm"]: arm["costs"][0] for arm in summary_of(demo)["arms"]}
    assert costs["base"]["samples"] == costs["nye"]["samples"] == 2 * 4
    assert costs["answers-only"]["samples"] == 2 * 4 * 4
    assert costs["answers-only"]["tokens_generated"] > costs["answers-only"]["tokens_trained"] >= 0
    assert costs["nye"]["tokens_trained"] > costs["direct"]["tokens_trained"] > 0
    assert all(cost["seconds"] > 0 for cost in costs.values())


def test_the_forced_empty_arm_never_writes_a_scratchpad(demo: Path) -> None:
    for line in (demo / "no-scratchpad" / "seed-0" / "eval" / "2.jsonl").read_text().splitlines():
        assert "scratch>" not in json.loads(line)["response"]


@pytest.mark.parametrize("path", [p for p in RECIPES if p.name != "demo.yaml"], ids=lambda p: p.stem)
def test_the_recipe_runs(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = shrunk(path)
    verb = "ablate" if is_experiment(read_yaml(path)) else "train"
    if verb == "train" and "path" in read_yaml(path)["model"]:
        tiny.policy(sizes=tiny.SIZES.model_copy(update={"max_positions": 256, **BLOCKS})).save(tmp_path / "base")
        overrides.append(f"model.path={tmp_path / 'base'}")
    out = tmp_path / "out"
    assert main(["check", str(path), *overrides]) == 0
    assert main([verb, str(path), "--out", str(out), *overrides]) == 0
    runs = [p.parent for p in out.rglob("done.json")]
    assert len(runs) == (1 if verb == "train" else len(read_yaml(path)["arms"]))
    steps = {json.loads((run / "done.json").read_text())["step"] for run in runs}
    assert steps <= {0 if path.name == "prompt.yaml" else 2, *({4, 80} if path.name in SOLVES else ())}


def test_sample_shows_the_scratchpad_apart_from_the_answer(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(demo / "nye" / "seed-0"), "47+85", "--count", "2", "--temperature", "1"]) == 0
    assert capsys.readouterr().out.count("47+85=") == 2


def test_a_problem_may_begin_with_a_minus(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(demo / "nye" / "seed-0")
    assert main(["sample", run, "-1+2"]) == 2
    assert "problem '-1+2': expected two whole numbers" in capsys.readouterr().err
    assert main(["sample", run, "--temprature"]) == 2
    assert "unrecognized arguments: --temprature" in capsys.readouterr().err


def test_eval_measures_a_run_again(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(demo / "direct" / "seed-0", run)
    assert main(["eval", str(run), "evaluation.problems=5"]) == 0
    cells = json.loads((run / "eval" / "2.json").read_text())["cells"]
    assert {cell["n"] for cell in cells} == {5, 100}
    assert {cell["split"] for cell in cells} == {"test"}


def test_settings_can_be_chosen_on_problems_that_are_not_the_test(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(demo / "direct" / "seed-0", run)
    test = {json.loads(line)["problem"] for line in (run / "eval" / "2.jsonl").read_text().splitlines()}
    assert main(["eval", str(run), "evaluation.split=validation", "task.digits=[2,3]"]) == 0
    records = [json.loads(line) for line in (run / "eval" / "2.jsonl").read_text().splitlines()]
    assert {record["split"] for record in records} == {"validation"}
    assert not {record["problem"].split("/")[-1] for record in records} & {problem.split("/")[-1] for problem in test}


@pytest.mark.parametrize(
    ("name", "processes", "machines", "deepspeed"),
    [
        ("cpu", 2, 1, None),
        ("cpu_zero2", 2, 1, "zero2.json"),
        ("gpu", 1, 1, None),
        ("node", 8, 1, "zero2.json"),
        ("nodes", 16, 2, "zero3.json"),
    ],
)
def test_accelerate_reads_its_configurations(name: str, processes: int, machines: int, deepspeed: str | None) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == (processes, machines)
    file = (config.deepspeed_config or {}).get("deepspeed_config_file")
    assert file == (None if deepspeed is None else f"recipes/launch/{deepspeed}")
    assert deepspeed is None or (LAUNCH / deepspeed).is_file()


def test_every_launch_configuration_is_named_in_the_guide() -> None:
    guide = (LAUNCH / "README.md").read_text()
    files = [file.name for file in LAUNCH.iterdir() if file.suffix in (".yaml", ".json")]
    assert len(files) == 9
    assert [name for name in files if f"({name})" not in guide] == []
