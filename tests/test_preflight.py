"""What is found wrong before anything heavy is loaded, each in one line with the fix."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.cli import main
from latentpad.models.tokenizer import character_tokenizer
from latentpad.preflight import check_plan, check_recipe, containment, refuse_missing_packages
from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.recipe.load import content_key, load_plan
from latentpad.recipe.schema import Recipe
from latentpad.tasks import WorkedTask, build_task
from latentpad.tasks.addition import Addition
from latentpad.tasks.python_programs import PythonPrograms
from reward import Outcome, Reward
from reward.sandbox import SandboxUnavailable
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from latentpad.types import Problem

    Data = dict[str, Any]

# `<scratch>99+99,C:0\n9+9,8C:1\n,98C:1\n198</scratch>198<eos>`: 29 characters, 2 tags, 3 digits, 1 stop; `99+99=`: 6.
RESPONSE, PROMPT = 35, 6


@dataclass(frozen=True)
class Lenient(Addition):
    """Every answer is right."""

    @property
    def grader(self) -> str:
        return "lenient:grade"


@dataclass(frozen=True)
class WrongGold(PythonPrograms):
    """Programs that do not print what the data say."""

    def program(self, problem: Problem) -> str:
        return super().program(problem) + "\nprint(a)"


class AnswersOnly:
    """Addition as an RL arm sees it: all but the scratchpads."""

    def __init__(self, task: Addition) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name in ("gold_scratchpad", "read_scratchpad", "corrupt"):
            raise AttributeError(name)
        return getattr(self._task, name)


def refused(data: Data) -> str:
    with pytest.raises(RecipeError) as error:
        check_recipe(Recipe.model_validate(data))
    assert "\n" not in str(error.value)
    return str(error.value)


def checkpoint(folder: Path, alphabet: str = "0123456789+,:C\n=", **config: object) -> Path:
    folder.mkdir()
    character_tokenizer(alphabet).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_good_recipe_is_told_what_was_found_true(recipe_data: Data) -> None:
    assert check_recipe(Recipe.model_validate(recipe_data)) == [
        "gold answers grade CORRECT, and a changed one does not",
        "a step samples 2 prompts x 4, in chunks of 8",
        "rollout.max_new_tokens 40 holds the longest gold response of digits=1, digits=2",
        "evaluation.max_new_tokens 40 holds the longest gold response of digits=1, digits=2",
    ]


@pytest.mark.parametrize("section", ["rollout", "evaluation"])
def test_a_limit_must_hold_the_longest_gold_response_and_its_stop_token(recipe_data: Data, section: str) -> None:
    recipe_data[section]["max_new_tokens"] = RESPONSE
    assert len(check_recipe(Recipe.model_validate(recipe_data))) == 4
    recipe_data[section]["max_new_tokens"] = RESPONSE - 1
    assert refused(recipe_data) == (
        f"{section}.max_new_tokens: got 34; the longest gold response of digits=2 takes 35 tokens: set it to 35 or more"
    )


def test_cells_beyond_must_fit_the_evaluation_limit_only(recipe_data: Data) -> None:
    recipe_data["evaluation"]["beyond"] = ["digits=3"]
    assert refused(recipe_data).startswith(
        "evaluation.max_new_tokens: got 40; the longest gold response of digits=3 takes 52 tokens"
    )
    recipe_data["evaluation"]["max_new_tokens"] = 52
    assert check_recipe(Recipe.model_validate(recipe_data))[2:] == [
        "rollout.max_new_tokens 40 holds the longest gold response of digits=1, digits=2",
        "evaluation.max_new_tokens 52 holds the longest gold response of digits=1, digits=2, digits=3",
    ]


def test_prompt_and_limit_must_fit_the_models_positions(recipe_data: Data) -> None:
    recipe_data["model"]["scratch"]["max_positions"] = PROMPT + 40
    assert len(check_recipe(Recipe.model_validate(recipe_data))) == 4
    recipe_data["model"]["scratch"]["max_positions"] = PROMPT + 39
    assert refused(recipe_data) == (
        "rollout.max_new_tokens: got 40; with a prompt of 6 tokens (digits=2) the model has room for 45"
    )


def test_an_empty_scratchpad_needs_no_room_for_one(recipe_data: Data) -> None:
    recipe_data |= {"scratchpad": "empty", "rollout": {"max_new_tokens": 4, "chunk_size": 8}}
    lines = check_recipe(Recipe.model_validate(recipe_data))
    assert "rollout.max_new_tokens 4 holds the longest gold response of digits=1, digits=2" in lines


def test_an_empty_scratchpad_still_needs_room_for_the_answer(recipe_data: Data) -> None:
    recipe_data |= {"scratchpad": "empty", "rollout": {"max_new_tokens": 3, "chunk_size": 8}}
    wanted = "the longest gold response of digits=2 takes 4 tokens: set it to 4 or more"
    assert refused(recipe_data) == f"rollout.max_new_tokens: got 3; {wanted}"


@pytest.mark.parametrize("chunk", [2, 6, 9])
def test_a_chunk_holds_whole_groups(recipe_data: Data, chunk: int) -> None:
    recipe_data["rollout"]["chunk_size"] = chunk
    assert refused(recipe_data) == f"rollout.chunk_size: got {chunk}; expected a multiple of rl.group_size (4)"


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("format", "compat", "format: unknown format 'compat'; did you mean 'compact'? (allowed: chat, compact, "),
        ("task", {"name": "adition", "digits": [1]}, "task.name: unknown task 'adition'; did you mean 'addition'?"),
        ("algorithm", {"name": "grop"}, "algorithm.name: unknown algorithm 'grop'; did you mean 'grpo'?"),
        ("algorithm", {"name": "grpo", "clip": 1}, "algorithm.clip: unknown key of algorithm 'grpo' 'clip'; "),
        ("algorithm", {"name": "grpo", "scale": "grp"}, "algorithm.scale: got 'grp'; did you mean 'group'? allowed: "),
        ("algorithm", {"name": "grpo", "clip_low": "x"}, "algorithm.clip_low: got 'x'; input should be a valid number"),
        ("evaluation", {"problems": 1, "max_new_tokens": 40, "beyond": ["five"]}, "cell 'five': expected digits=N"),
    ],
)
def test_a_part_that_is_not_there_is_named(recipe_data: Data, key: str, value: object, line: str) -> None:
    assert refused(recipe_data | {key: value}).startswith(line)


def test_a_grader_that_cannot_tell_right_from_wrong_is_refused(recipe_data: Data, monkeypatch: Any) -> None:
    module = ModuleType("lenient")
    vars(module).update(Lenient=Lenient, grade=lambda answer, gold, **options: Reward.of(Outcome.CORRECT))
    monkeypatch.setitem(sys.modules, "lenient", module)
    assert refused(recipe_data | {"task": {"name": "lenient:Lenient", "digits": [1]}}) == (
        "task: the grader does not tell the gold answer of addition/longest/9+9 from a wrong one"
    )


def test_a_checkpoint_that_is_not_there_is_named(recipe_data: Data, tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    assert refused(recipe_data | {"model": {"path": str(path)}}) == f"model.path: no such folder: {path}"


def test_a_folder_without_a_tokenizer_is_no_checkpoint(recipe_data: Data, tmp_path: Path) -> None:
    assert refused(recipe_data | {"model": {"path": str(tmp_path)}}) == (
        f"model.path: {tmp_path} holds no tokenizer.json: give the folder of a checkpoint with a fast tokenizer"
    )


@pytest.mark.parametrize(("file", "kind"), [("config.json", "JSON"), ("tokenizer.json", "a tokenizer")])
def test_a_torn_file_of_a_checkpoint_is_named(recipe_data: Data, tmp_path: Path, file: str, kind: str) -> None:
    path = checkpoint(tmp_path / "model")
    (path / file).write_text('{"torn":')
    line = refused(recipe_data | {"model": {"path": str(path)}})
    assert line.startswith(f"model.path: {path / file} is not readable as {kind} (")


def test_a_checkpoint_is_checked_by_its_own_positions_and_characters(recipe_data: Data, tmp_path: Path) -> None:
    short = checkpoint(tmp_path / "short", max_position_embeddings=45)
    assert refused(recipe_data | {"model": {"path": str(short)}}).endswith("the model has room for 45")
    mute = checkpoint(tmp_path / "mute", alphabet="012345678+,:C\n=")
    assert refused(recipe_data | {"model": {"path": str(mute)}}).endswith("characters it lacks: '9'")
    good = checkpoint(tmp_path / "good", max_position_embeddings=46)
    assert len(check_recipe(Recipe.model_validate(recipe_data | {"model": {"path": str(good)}}))) == 4


def two_arms(data: Data, model: Data) -> Data:
    own = {key: data.pop(key) for key in ("name", "method", "model", "rl", "algorithm")}
    learner = {key: own[key] for key in ("method", "rl", "algorithm")}
    teacher = {"method": "supervised", "supervised": {"target": "answer", "examples_per_step": 2}, "model": model}
    return {
        "experiment": "e",
        "seeds": [0],
        "shared": data,
        "arms": {"base": teacher, "child": {"from": "base"} | learner},
    }


def test_a_child_is_checked_with_the_sizes_of_its_parent(recipe_data: Data, written: Callable[..., Path]) -> None:
    scratch = recipe_data["model"]["scratch"] | {"max_positions": 45}
    data = two_arms(recipe_data, {"scratch": scratch})
    data["shared"]["evaluation"]["max_new_tokens"] = 39
    with pytest.raises(RecipeError, match=r"^arms\.child\.rollout\.max_new_tokens: got 40; .* has room for 45$"):
        check_plan(load_plan(written(data)))


def test_a_child_is_checked_with_the_checkpoint_of_its_parent(
    recipe_data: Data, written: Callable[..., Path], tmp_path: Path
) -> None:
    data = two_arms(recipe_data, {"path": str(checkpoint(tmp_path / "model", max_position_embeddings=46))})
    lines = check_plan(load_plan(written(data)))
    assert [line.partition(":")[0] for line in lines] == ["arms.base"] * 2 + ["arms.child"] * 4


def test_deepspeed_that_is_not_installed_is_refused_before_any_work(
    recipe_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.model_validate(recipe_data)
    refuse_missing_packages(recipe, deepspeed=True)
    monkeypatch.setattr("latentpad.preflight.find_spec", lambda name: None)
    refuse_missing_packages(recipe)
    with pytest.raises(MachineError, match=r"pip install 'latentpad\[deepspeed\]'"):
        refuse_missing_packages(recipe, deepspeed=True)


def test_a_supervised_arm_without_trl_is_refused_before_any_work(
    recipe_data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("rl", "algorithm"):
        del recipe_data[key]
    recipe_data |= {"method": "supervised", "supervised": {"target": "answer", "examples_per_step": 4}}
    monkeypatch.setattr("latentpad.preflight.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"pip install 'latentpad\[trl\]'"):
        refuse_missing_packages(Recipe.model_validate(recipe_data))


def test_rl_draws_from_cells_that_the_task_trains_on(recipe_data: Data) -> None:
    recipe_data["rl"]["cells"] = ["digits=2", "digits=2", "digits=3"]
    line = "rl.cells: unknown cell 'digits=3'; did you mean 'digits=2'? (allowed: digits=1, digits=2)"
    assert refused(recipe_data) == line


@pytest.mark.parametrize(
    ("answer", "solution", "grader", "options"),
    [
        ("12.5", "12.5", "program_output", {"mode": "value"}),  # 12.50 is right too
        ("7", "7", "number", {}),  # and so is 07
        ("18", "18", "number", {"extraction": "boxed"}),  # the task puts the mark around it
        ("18", "18", "integer", {"extraction": "answer"}),
        ('{"target": 6, "numbers": [2, 3]}', "2*3", "expression", {}),
    ],
)
def test_a_right_and_a_spoilt_answer_are_told_apart_in_every_spelling(
    recipe_data: Data, tmp_path: Path, answer: str, solution: str, grader: str, options: Data
) -> None:
    rows = [{"question": f"{n}+0", "answer": answer, "solution": solution} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe_data["task"] = {"name": "jsonl", "path": str(tmp_path / "rows.jsonl"), "solution_column": "solution"}
    recipe_data["task"] |= {"grader": grader, "grader_options": options}
    assert (
        check_recipe(Recipe.model_validate(recipe_data))[0] == "gold answers grade CORRECT, and a changed one does not"
    )


@pytest.fixture
def program_data(recipe_data: Data) -> Data:
    recipe_data["task"] = {"name": "python_programs", "steps": ["1-2", "3-4"]}
    recipe_data["format"] = "lines"
    recipe_data["model"]["scratch"]["max_positions"] = 256
    recipe_data["rollout"]["max_new_tokens"] = recipe_data["evaluation"]["max_new_tokens"] = 64
    return recipe_data


def test_programs_are_executed_before_a_run(program_data: Data) -> None:
    assert check_recipe(Recipe.model_validate(program_data))[1].startswith("programs run in the sandbox (tier ")


def test_what_is_recorded_of_the_sandbox_holds_no_path_of_this_machine(program_data: Data) -> None:
    recorded = containment(build_task(Recipe.model_validate(program_data).task))
    assert recorded.startswith("tier: ")
    assert "interpreter: cpython 3" in recorded
    assert "/" not in recorded


def test_a_program_that_does_not_print_its_gold_answer_is_refused(program_data: Data) -> None:
    program_data["task"]["name"] = "tests.test_preflight:WrongGold"
    line = refused(program_data)
    assert line.startswith("task: the program of python_programs/validation/")
    assert line.endswith("does not print its gold answer (it ends with ok)")


def test_a_machine_without_a_sandbox_stops_before_any_work(
    program_data: Data, monkeypatch: pytest.MonkeyPatch, written: Callable[..., Path], capsys: Any
) -> None:
    def none() -> None:
        raise SandboxUnavailable("no seccomp here")

    monkeypatch.setattr("latentpad.preflight.shared", none)
    assert main(["check", str(written(program_data))]) == 3
    assert capsys.readouterr().err == "latentpad: no seccomp here\n"


def test_a_sandbox_setting_that_cannot_be_is_refused(program_data: Data) -> None:
    program_data["sandbox"] = {"allow_unsafe": "yes"}
    assert refused(program_data).startswith("sandbox: allow_unsafe must be")


def test_the_sandbox_is_no_part_of_what_decides_a_result(program_data: Data) -> None:
    key = content_key(Recipe.model_validate(program_data))
    assert content_key(Recipe.model_validate(program_data | {"sandbox": {"slots": 1}})) == key
    assert content_key(Recipe.model_validate(program_data | {"seed": 1})) != key


@pytest.mark.parametrize(
    ("method", "section"),
    [
        ("pretrain", {"documents_per_step": 2, "scratchpad_share": 0.5}),
        ("supervised", {"target": "scratchpad", "examples_per_step": 2}),
    ],
)
def test_what_has_no_gold_scratchpads_cannot_teach_them(
    recipe_data: Data, monkeypatch: pytest.MonkeyPatch, method: str, section: Data
) -> None:
    bare = AnswersOnly(Addition(digits=(1, 2)))
    assert not isinstance(bare, WorkedTask)
    monkeypatch.setattr("latentpad.preflight.build_task", lambda _: bare)
    assert check_recipe(Recipe.model_validate(recipe_data))  # RL needs none
    del recipe_data["rl"], recipe_data["algorithm"]
    recipe_data |= {"method": method, method: section}
    assert refused(recipe_data).startswith("task AnswersOnly has no gold scratchpads to teach")


def test_a_vote_takes_no_algorithm_that_picks_groups_by_the_grader(tmp_path: Path) -> None:
    tiny.policy().save(tmp_path)
    rl = {"signal": "vote"}
    recipe = tiny.recipe("rl", rl=rl, model={"path": str(tmp_path)}, algorithm={"name": "dapo", "sampling_rounds": 2})
    with pytest.raises(RecipeError, match=r"rl\.signal: 'vote' does without the grader"):
        check_recipe(recipe)


@pytest.mark.parametrize(("engine", "package", "fix"), [("ray", "ray", "latentpad[ray]"), ("vllm", "vllm", "docker/")])
def test_an_engine_that_is_not_installed_is_one_line(
    engine: str, package: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentpad.preflight.find_spec", lambda name: None if name == package else object())
    recipe = tiny.recipe(rollout={"engine": engine})
    with pytest.raises(MachineError) as error:
        refuse_missing_packages(recipe)
    assert f"rollout.engine '{engine}' needs" in str(error.value)
    assert fix in str(error.value)
