"""`method: prompt`: what is shown, where responses end, and whole runs of a model that nothing is taught."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from latentpad.cli import main
from latentpad.evaluation.evaluate import evaluate
from latentpad.evaluation.prompting import check_prompting, draws_of, evaluate_prompts, few_shot, shown_problems
from latentpad.experiments.report import write_report
from latentpad.experiments.run import evaluate_run, open_run, run_recipe
from latentpad.formats import get_format
from latentpad.models.policy import load_policy
from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import dump, load_recipe, with_run
from latentpad.recipe.schema import Recipe, ScratchSection
from latentpad.rollout import Sampling
from latentpad.rollout.local import LocalEngine
from latentpad.tasks import build_task, worked
from latentpad.training.episodes import grade_rollouts
from latentpad.training.processes.world import ALONE
from latentpad.types import FinishReason, Problem
from reward import Outcome
from tests import tiny

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from latentpad.models.policy import Policy
    from latentpad.rollout import Request
    from latentpad.tasks import Task
    from latentpad.types import Rollout

ONE_DIGIT, TWO_DIGITS = ({"name": "addition", "digits": [d]} for d in (1, 2))
LONG = {"max_new_tokens": 60}
STYLES = ("answer", "scratchpad", "filler", "scratchpad_after_answer")
SIZES = ScratchSection(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model from scratch on disk."""
    folder = tmp_path_factory.mktemp("model")
    tiny.policy(sizes=SIZES).save(folder)
    return folder


def recipe(path: Path, style: str = "answer", shots: int = 2, **changes: Any) -> Recipe:
    filler = {"filler": ":"} if style == "filler" else {}
    data: dict[str, Any] = {
        "name": "prompted",
        "method": "prompt",
        "task": {"name": "addition", "digits": [1, 2]},
        "format": "compact",
        "model": {"path": str(path)},
        "rollout": {"max_new_tokens": 40, "chunk_size": 16},
        "evaluation": {"problems": 5, "max_new_tokens": 40},
        "prompting": {"shots": shots, "style": style, "draws": 2, "separator": "\n\n", **filler},
    }
    for key, value in changes.items():
        merges = isinstance(value, dict) and key in data and key not in ("model", "task")
        data[key] = {**data[key], **value} if merges else value
    return Recipe.model_validate(data)


def shown(made: Recipe, policy: Policy, draw: int = 0) -> str:
    """All that stands before the question."""
    return few_shot(made, build_task(made.task), get_format(made.format), policy.tokenizer, draw).prompt("?")


def test_examples_stand_before_the_question_in_the_style_asked_for(model: Path) -> None:
    policy, task = load_policy(model), worked(tiny.task())
    first, second = shown_problems(recipe(model), task, 0)
    pads = [task.gold_scratchpad(problem) for problem in (first, second)]
    a, b = first.answer, second.answer
    for style, (left, right) in {
        "answer": (a, b),
        "scratchpad": (f"<scratch>{pads[0]}</scratch>{a}", f"<scratch>{pads[1]}</scratch>{b}"),
        "filler": (f"<scratch>{':' * len(pads[0])}</scratch>{a}", f"<scratch>{':' * len(pads[1])}</scratch>{b}"),
        "scratchpad_after_answer": (f"{a}<scratch>{pads[0]}</scratch>", f"{b}<scratch>{pads[1]}</scratch>"),
    }.items():
        expected = f"{first.question}={left}\n\n{second.question}={right}\n\n?="
        assert shown(recipe(model, style), policy) == expected


def test_steps_after_the_answer_begin_a_line_of_their_own_where_the_format_has_lines(model: Path) -> None:
    made, task = recipe(model, "scratchpad_after_answer", shots=1), worked(tiny.task())
    [problem] = shown_problems(made, task, 0)
    text = few_shot(made, task, get_format("lines"), load_policy(model).tokenizer, 0).prompt("?")
    pad = task.gold_scratchpad(problem)
    assert text == f"{problem.question}\n{problem.answer}\n<scratch>\n{pad}\n</scratch>\n\n?\n"


def test_examples_are_train_problems_of_the_cells_in_turn_and_the_same_in_every_style(model: Path) -> None:
    component = {"name": "addition", "digits": [2, 3]}
    made = recipe(model, shots=6, task=component)
    task = build_task(made.task)
    for draw in range(5):
        problems = shown_problems(made, task, draw)
        cells = [problem.cell for problem in problems]
        assert {problem.split for problem in problems} == {"train"}
        assert cells[:2] * 3 == cells
        assert set(cells) == {"digits=2", "digits=3"}
        assert len({task.canonical(problem) for problem in problems}) == 6
        assert shown_problems(recipe(model, shots=3, task=component), task, draw) == problems[:3]
        for style in STYLES:
            assert shown_problems(recipe(model, style, shots=6, task=component), task, draw) == problems
    draws = [shown_problems(made, task, draw) for draw in range(5)]
    assert all(draws[i] != draws[j] for i in range(5) for j in range(i))
    assert shown_problems(recipe(model, shots=6, task=component, seed=1), task, 0) != draws[0]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_no_example_is_evaluated_even_where_all_splits_share_a_cell(model: Path, split: str) -> None:
    asked = {"split": split, "problems": 50}
    made = recipe(model, task={"name": "parity", "lengths": [6]}, shots=10, evaluation=asked)  # 64, shared
    task = build_task(made.task)
    evaluated = {task.canonical(problem) for problem in task.distinct(split, "length=6", 50)}
    assert len(evaluated) == 50
    for draw in range(3):
        found = {task.canonical(problem) for problem in shown_problems(made, task, draw)}
        assert len(found) == 10
        assert not found & evaluated


def test_a_cell_that_is_evaluated_whole_shows_nothing_and_the_others_stand_in(model: Path) -> None:
    assert {problem.cell for problem in shown_problems(recipe(model, shots=4), tiny.task(), 0)} == {"digits=2"}
    made = recipe(model, task=ONE_DIGIT)
    with pytest.raises(RecipeError, match=r"^prompting\.shots: got 2; there are only about 0 train problems that are"):
        shown_problems(made, build_task(made.task), 0)


class Scripted:
    """Writes given responses in turn, cut at the limit."""

    def __init__(self, policy: Policy, responses: Sequence[str]) -> None:
        self.policy, self.responses = policy, responses

    def sync(self, version: int, adapter_hash: str) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling, on_chunk: Any = None) -> list[Rollout]:
        found = []
        for i, request in enumerate(requests):
            text = self.responses[i % len(self.responses)]
            stop = not text.endswith("!")
            made = tiny.rollout(self.policy, request.prompt.problem.question, text.removesuffix("!"), stop=stop)
            found.append(made)
        return found


def graded(policy: Policy, response: str, ends: Sequence[str]) -> Any:
    rollout = tiny.rollout(policy, "1+2", response.removesuffix("!"), stop=not response.endswith("!"))
    problem = replace(rollout.prompt.problem, answer="3")
    rollout = replace(rollout, prompt=replace(rollout.prompt, problem=problem))
    [episode] = grade_rollouts(policy, tiny.task(), [rollout], ends=ends)
    return episode


@pytest.mark.parametrize(
    ("response", "ends", "kept", "tokens", "outcome"),
    [
        ("3\n\n4+5=9", ["\n\n"], "3", 3, Outcome.CORRECT),
        ("3\n\n4+5=9!", ["\n\n"], "3", 3, Outcome.CORRECT),  # cut by the limit, but after its end
        ("3", ["\n\n"], "3", 2, Outcome.CORRECT),
        ("3!", ["\n\n"], "3", 1, Outcome.TRUNCATED),
        ("3\n4", ["\n\n"], "3\n4", 4, Outcome.UNPARSEABLE),
        ("\n\n3", ["\n\n"], "", 2, Outcome.UNPARSEABLE),
        ("<scratch>1+2\n\n</scratch>3", ["\n\n"], "<scratch>1+2", 6, Outcome.UNPARSEABLE),
        ("3<scratch>1+2,C:0</scratch>\n\n4", ["\n\n", "<scratch>"], "3", 2, Outcome.CORRECT),
        ("3\n\n<scratch>", ["<scratch>", "\n\n"], "3", 3, Outcome.CORRECT),
        ("4<scratch>3</scratch>3", ["\n\n", "<scratch>"], "4", 2, Outcome.WRONG),
        ("3<scratch>1+2,C:0</scratch>", [], "3<scratch>1+2,C:0</scratch>", 11, Outcome.UNPARSEABLE),
    ],
)
def test_a_response_ends_before_the_first_separator(
    response: str, ends: list[str], kept: str, tokens: int, outcome: Outcome
) -> None:
    episode = graded(tiny.policy(), response, ends)
    assert (episode.response, episode.reward.outcome) == (kept, outcome)
    assert len(episode.rollout.token_ids) == len(episode.rollout.logprobs) == tokens
    stopped = not response.endswith("!") or kept != response.removesuffix("!")
    assert episode.rollout.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_that_is_followed_by_the_next_example_is_graded_alone(
    model: Path, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, policy = recipe(model, style, task=TWO_DIGITS), load_policy(model)
    task = worked(build_task(made.task))
    problems = task.distinct("test", "digits=2", 5)

    class Model(Scripted):
        """Answers rightly as it is shown, and goes on with an example of its own."""

        def generate(self, requests: Sequence[Request], sampling: Sampling, on_chunk: Any = None) -> list[Rollout]:
            found = super().generate(requests, sampling)
            return [replace(f, prompt=r.prompt) for f, r in zip(found, requests, strict=True)]

    def writes(p: Problem) -> str:
        return {
            "answer": p.answer,
            "scratchpad": get_format("compact").response(p.answer, task.gold_scratchpad(p)),
            "filler": f"<scratch>::::</scratch>{p.answer}",
            "scratchpad_after_answer": f"{p.answer}<scratch>{task.gold_scratchpad(p)}</scratch>",
        }[style]

    script = [f"{writes(problem)}\n\n11+11=22!" for problem in problems]
    monkeypatch.setattr("latentpad.rollout.local.LocalEngine", lambda policy, chunk_size: Model(policy, script))
    cells, records, _ = evaluate_prompts(made, policy, ALONE)
    assert [(cell.decoding, cell.accuracy) for cell in cells] == [
        (name, 1.0) for name in ("greedy", "temperature=1", "greedy, draw 1", "temperature=1, draw 1")
    ]
    for line in records:
        assert line["answer"] == line["gold"]
        assert "\n\n" not in line["response"]
        assert line["finish_reason"] == "STOP"
        assert line["prompt"].endswith("=")
        assert line["prompt"].count("\n\n") == 2


def test_no_example_is_plain_evaluation_to_the_record(model: Path) -> None:
    made, policy = recipe(model, shots=0, task=TWO_DIGITS), load_policy(model)
    task, text_format = build_task(made.task), get_format(made.format)
    engine = LocalEngine(policy, chunk_size=16)
    assert list(draws_of(made)) == [0]
    assert evaluate_prompts(made, policy, ALONE) == evaluate(made, policy, engine, task, text_format)
    assert few_shot(made, task, text_format, policy.tokenizer, 0) is text_format


@pytest.mark.parametrize("style", STYLES)
def test_a_run_leaves_its_evaluation_and_nothing_else(model: Path, tmp_path: Path, style: str) -> None:
    task = {"name": "addition", "digits": [2, 3]}
    made = recipe(model, style, task=task, evaluation={"problems": 3, "pass_at": 2, "pass_problems": 2, **LONG})
    folder = tmp_path / "run"
    run_recipe(made, folder)
    evaluation = json.loads((folder / "eval" / "0.json").read_text())
    names, cells = ["greedy", "temperature=1", "pass@2"], ["digits=2", "digits=3"]
    expected = [(f"{name}{draw}", cell) for draw in ("", ", draw 1") for name in names for cell in cells]
    assert [(cell["decoding"], cell["cell"]) for cell in evaluation["cells"]] == expected
    records = [json.loads(line) for line in (folder / "eval" / "0.jsonl").read_text().splitlines()]
    assert {line["decoding"] for line in records} == {name for name, _ in expected}
    tallies = [json.loads(line) for line in (folder / "eval" / "0.tries.jsonl").read_text().splitlines()]
    assert [(line["cell"], line["n"]) for line in tallies] == [("digits=2", 2)] * 2 + [("digits=3", 2)] * 2
    done = json.loads((folder / "done.json").read_text())
    assert done["step"] == 0
    assert done["counters"] == {"samples": 0, "tokens_generated": 0, "tokens_trained": 0, "seconds": 0.0}
    assert not (folder / "checkpoints").exists()
    assert "nothing is trained" in (folder / "environment.json").read_text()
    assert load_recipe(folder / "recipe.yaml") == made
    assert "digits=2" in write_report(folder).read_text()
    before = (folder / "eval" / "0.json").read_bytes()
    (folder / "done.json").unlink()  # as if killed before the end
    run_recipe(made, folder)
    assert (folder / "eval" / "0.json").read_bytes() == before
    with pytest.raises(RecipeError, match="method 'prompt' trains nothing, so there is no checkpoint"):
        open_run(folder)


def test_a_run_can_be_evaluated_again_by_its_recipe(model: Path, tmp_path: Path) -> None:
    made = recipe(model, task=TWO_DIGITS)
    run_recipe(made, tmp_path)
    step, cells, *_ = evaluate_run(tmp_path, made)
    assert step == 0
    assert [c.accuracy for c in cells] == [
        c["accuracy"] for c in json.loads((tmp_path / "eval" / "0.json").read_text())["cells"]
    ]


def test_a_recipe_is_the_same_after_it_was_written_down_and_for_another_seed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump(recipe(model)))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe(model)
    assert with_run(recipe(model), seed=3, path="elsewhere").seed == 3


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, Any]:
    return {
        "experiment": "shots",
        "seeds": [0],
        "shared": {
            "task": TWO_DIGITS,
            "format": "compact",
            "rollout": {"max_new_tokens": 40, "chunk_size": 16},
            "training": {"steps": 2, "learning_rate": 0.01, "checkpoint_every": 2},
            "evaluation": {"problems": 4, "max_new_tokens": 40},
        },
        "arms": {
            "base": {
                "method": "pretrain",
                "model": {"scratch": SIZES.model_dump(exclude_none=True)},
                "pretrain": {"documents_per_step": 4, "scratchpad_share": 0.0},
            },
            "shown": {
                "from": "base",
                "method": "prompt",
                "training": None,
                "prompting": {"shots": 2, "style": "scratchpad", "draws": 2},
            },
        },
    }


def test_an_arm_of_an_experiment_is_prompted_beside_what_it_starts_from(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    out = tmp_path / "out"
    assert main(["ablate", str(tmp_path / "plan.yaml"), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    _, arm = summary["arms"]
    assert (arm["method"], arm["from"], arm["status"]) == ("prompt", "base", "done")
    assert {cell["decoding"] for cell in arm["cells"]} == {
        *("greedy", "temperature=1", "greedy, draw 1", "temperature=1, draw 1")
    }
    assert [c["decoding"] for c in summary["comparisons"]] == ["greedy"]
    results = (out / "results.md").read_text()
    assert "greedy, draw 1" in results
    assert (out / "report" / "index.html").is_file()


def test_nothing_can_start_from_an_arm_that_trains_nothing(plan: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    plan["arms"]["child"] = {"from": "shown", "method": "supervised", "supervised": {"target": "answer"}}
    plan["arms"]["child"]["supervised"]["examples_per_step"] = 2
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    assert main(["ablate", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "arms.child.from: 'shown' trains nothing: start from what it starts from" in capsys.readouterr().err


def checked(made: Recipe, model: Path, positions: int = 512) -> list[str]:
    task: Task = build_task(made.task)
    return check_prompting(
        made, task, get_format(made.format), load_policy(model).tokenizer.backend_tokenizer, positions
    )


def test_the_longest_prompt_of_all_draws_must_fit_the_model(model: Path) -> None:
    made, policy = recipe(model, "scratchpad", shots=4), load_policy(model)
    most = max(len(shown(made, policy, draw).removesuffix("?=").replace("<scratch>", "a").replace("</scratch>", "b"))
               for draw in range(2)) + len("99+99=")  # fmt: skip
    assert checked(made, model, most + 40) == [f"2 draws of 4 examples make prompts of at most {most} tokens"]
    with pytest.raises(RecipeError) as error:
        checked(made, model, most + 39)
    assert str(error.value).startswith("prompting.shots: got 4; with draw ")
    assert str(error.value).endswith(f"the model has room for {most + 39}: show fewer")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prompting": {"separator": ""}}, "prompting.separator: got ''; expected text between examples"),
        ({"prompting": {"separator": "\n", "style": "scratchpad"}}, "prompting.separator: got '\\n', which is in the"),
        ({"prompting": {"filler": ":"}}, "prompting.filler: is of style 'filler': remove it"),
        ({"prompting": {"style": "filler"}}, "prompting.filler: got '.'; expected exactly one token of the model's"),
        ({"prompting": {"style": "scratchpad", "shots": 0}}, "prompting.style: got 'scratchpad'; with 0 shots nothing"),
        ({"prompting": {"style": "scratchpad"}, "scratchpad": "empty"}, "prompting.style: got 'scratchpad'; scratchp"),
        ({"model": {"scratch": SIZES.model_dump()}}, "model.scratch: method 'prompt' trains nothing, and a new model"),
        ({"task": ONE_DIGIT}, "prompting.shots: got 2; there are only about 0"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_refused(model: Path, changes: dict[str, Any], line: str) -> None:
    check_recipe(recipe(model))
    with pytest.raises(RecipeError) as error:
        check_recipe(recipe(model, **changes))
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_an_adapter_that_nothing_trains_is_refused(model: Path) -> None:
    with pytest.raises(RecipeError, match=r"^model\.lora: method 'prompt' trains nothing: remove it"):
        check_recipe(recipe(model, model={"path": str(model), "lora": {"rank": 2, "alpha": 4.0}}))


def test_a_training_section_is_refused_with_the_way_out(model: Path) -> None:
    with pytest.raises(ValueError, match="say 'training: null' in this one"):
        recipe(model, training={"steps": 2, "learning_rate": 0.01, "checkpoint_every": 1})
