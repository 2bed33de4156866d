"""What a recipe may say, and the one line for what it may not: file, key, what was got, what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import latentpad
from latentpad.formats import get_format
from latentpad.models.tokenizer import character_tokenizer
from latentpad.preflight import check_plan, check_recipe
from latentpad.recipe.components import build
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key, dump, is_experiment, load_plan, load_recipe, read_yaml, with_run
from latentpad.recipe.schema import Component, Recipe
from latentpad.tasks import TASKS, build_task

if TYPE_CHECKING:
    from collections.abc import Callable

    Written = Callable[..., Path]
    Data = dict[str, Any]

FOLDER = Path(latentpad.__file__).parents[1] / "recipes"
# In `launch` are accelerate's configurations.
RECIPES = sorted(file for file in FOLDER.rglob("*.yaml") if file.parent != FOLDER / "launch")


def spoilt(data: Data, key: str, value: object) -> Data:
    """The data with a dotted key set, or taken away where the value is `...`."""
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        node = node.setdefault(parent, {})
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return data


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_that_is_shipped_is_good(path: Path, tmp_path: Path) -> None:
    if is_experiment(read_yaml(path)):
        plan = load_plan(path)
        assert len(check_plan(plan)) >= len(plan.arms) > 0
        return
    recipe = load_recipe(path)
    if recipe.model.path is not None:  # a run of the user's own: what it would hold stands in for it
        alphabet = build_task(recipe.task).alphabet + get_format(recipe.format).alphabet
        character_tokenizer(alphabet).save(str(tmp_path / "tokenizer.json"))
        recipe = with_run(recipe, seed=0, path=str(tmp_path))
    assert len(check_recipe(recipe)) >= (3 if recipe.method == "rl" else 2)


def test_shipped_recipes_were_found() -> None:
    assert len(RECIPES) >= 3
    assert "demo.yaml" in {path.name for path in RECIPES}


def test_the_demo_has_the_method_its_baselines_and_its_controls() -> None:
    arms = load_plan(next(path for path in RECIPES if path.name == "demo.yaml")).arms
    assert {arm.name for arm in arms} >= {"base", "direct", "nye", "answers-only", "random-reward", "no-scratchpad"}


def test_a_recipe_without_a_fault_loads(written: Written, recipe_data: Data) -> None:
    recipe = load_recipe(written(recipe_data), ["training.learning_rate=1e-3", "seed=7"])
    assert (recipe.training.learning_rate, recipe.seed, recipe.rl_section.group_size) == (0.001, 7, 4)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (
            "training.learning_rte",
            1,
            "training.learning_rte: unknown key 'learning_rte'; did you mean 'learning_rate'?"
            " (allowed: activation_checkpointing, checkpoint_every, learning_rate, matrix_learning_rate, max_grad_norm,"
            " micro_batch_tokens, optimizer, precision, schedule, steps, warmup_steps,"
            " weight_decay)",
        ),
        (
            "rl.group_sise",
            4,
            "rl.group_sise: unknown key 'group_sise'; did you mean 'group_size'?"
            " (allowed: cells, entropy_coef, epochs, group_size, half_length, kl, ladder, minibatches,"
            " problems, prompts_per_step, signal)",
        ),
        (
            "model.scratch.zebra",
            4,
            "model.scratch.zebra: unknown key 'zebra'; (allowed: architecture, heads, hidden_size, intermediate_size,"
            " layers, max_positions, nope_layers)",
        ),
        ("training.steps", "10", "training.steps: got '10'; input should be a valid integer"),
        ("training.steps", 1.5, "training.steps: got 1.5; input should be a valid integer"),
        ("training.steps", True, "training.steps: got True; input should be a valid integer"),
        ("training.steps", 0, "recipe: 'training.steps' 0: expected 1 or more: method 'rl' trains"),
        ("training.learning_rate", "fast", "training.learning_rate: got 'fast'; input should be a valid number"),
        ("training.learning_rate", float("nan"), "training.learning_rate: got nan; input should be a finite number"),
        ("rl.group_size", 1, "rl.group_size: got 1; input should be greater than 1"),
        ("evaluation.problems", 10**6, "evaluation.problems: got 1000000; input should be less than or equal to 20000"),
        ("training.steps", ..., "training.steps: missing: this key is required"),
        ("format", ..., "format: missing: this key is required"),
        (
            "method",
            "reinforce",
            "method: got 'reinforce'; allowed: 'pretrain', 'supervised', 'rl', 'expert_iteration' or 'prompt'",
        ),
        (
            "method",
            "supervized",
            "method: got 'supervized'; did you mean 'supervised'? allowed: 'pretrain', 'supervised', 'rl', "
            "'expert_iteration' or 'prompt'",
        ),
        ("rollout.engine", "vlm", "rollout.engine: got 'vlm'; did you mean 'vllm'? allowed: 'local', 'vllm' or 'ray'"),
        ("name", "a/b", "name: got 'a/b'; string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$'"),
        ("model.path", "x", "model: give exactly one of 'path' (a checkpoint) and 'scratch' (sizes of a new model)"),
        ("model.scratch", ..., "model: give exactly one of 'path' (a checkpoint) and 'scratch' (sizes of a new model)"),
        (
            "model.scratch.heads",
            3,
            "model.scratch: hidden_size 16 must be an even multiple of heads 3 (rotary positions)",
        ),
        (
            "model.scratch.heads",
            16,
            "model.scratch: hidden_size 16 must be an even multiple of heads 16 (rotary positions)",
        ),
        (
            "model.scratch.nope_layers",
            "all",
            "model.scratch: 'nope_layers' needs 'architecture: smollm3'; 'llama' has no such layers",
        ),
        (
            "evaluation.pass_at",
            8,
            "evaluation: 'pass_at' (responses a problem) and 'pass_problems' (problems a cell) go together",
        ),
        (
            "supervised",
            {"target": "answer", "examples_per_step": 4},
            "recipe: section 'supervised' is not used by method 'rl': remove it",
        ),
        (
            "pretrain",
            {"documents_per_step": 4, "scratchpad_share": 0.2},
            "recipe: section 'pretrain' is not used by method 'rl': remove it",
        ),
        ("algorithm", ..., "recipe: method 'rl' needs a section 'algorithm'"),
        ("rl", ..., "recipe: method 'rl' needs a section 'rl'"),
        (
            "training.matrix_learning_rate",
            0.1,
            "recipe: 'training.matrix_learning_rate' (Muon) is used by method 'pretrain' only: remove it",
        ),
    ],
)
def test_one_line_says_file_key_got_and_allowed(
    written: Written, recipe_data: Data, key: str, value: object, line: str
) -> None:
    path = written(spoilt(recipe_data, key, value))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: {line}"


def test_more_than_one_fault_is_counted(written: Written, recipe_data: Data) -> None:
    spoilt(recipe_data, "training.steps", ...)
    with pytest.raises(RecipeError, match=r"seed: got -1; input should be greater than or equal to 0 \(and 2 more\)$"):
        load_recipe(written(recipe_data | {"strange": 1, "seed": -1}))


@pytest.mark.parametrize(
    ("section", "changes", "line"),
    [
        (
            "pretrain",
            {"primitive_share": 0.9},
            "pretrain: 'scratchpad_share' 0.2 and 'primitive_share' 0.9 are shares of the same documents: together at "
            "most 1",
        ),
        (
            "scratch",
            {"architecture": "smollm3", "nope_layers": [0, 2]},
            "model.scratch: 'nope_layers' [0, 2]: layers are numbered 0 to 0",
        ),
    ],
)
def test_a_corpus_and_layers_that_cannot_be_are_refused(
    written: Written, recipe_data: Data, section: str, changes: Data, line: str
) -> None:
    del recipe_data["rl"], recipe_data["algorithm"]
    recipe_data |= {"method": "pretrain", "pretrain": {"documents_per_step": 4, "scratchpad_share": 0.2}}
    (recipe_data["pretrain"] if section == "pretrain" else recipe_data["model"]["scratch"]).update(changes)
    path = written(recipe_data)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: {line}"


def test_pretraining_takes_no_adapter(written: Written, recipe_data: Data) -> None:
    del recipe_data["rl"], recipe_data["algorithm"]
    recipe_data |= {"method": "pretrain", "pretrain": {"documents_per_step": 4, "scratchpad_share": 0.2}}
    recipe_data["model"]["lora"] = {"rank": 2, "alpha": 4}
    with pytest.raises(RecipeError, match=r"method 'pretrain' trains all weights: remove 'model\.lora'$"):
        load_recipe(written(recipe_data))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"name": "additon", "digits": [1]},
            f"task.name: unknown task 'additon'; did you mean 'addition'? (allowed: {', '.join(sorted(TASKS))}); or a"
            " path 'package.module:Class'",
        ),
        (
            {"name": "addition", "digit": [1]},
            "task.digit: unknown key of task 'addition' 'digit'; did you mean 'digits'? (allowed: digits, "
            "primitive_digits, primitives, spelling)",
        ),
        ({"name": "addition"}, "task.digits: missing: this key is required"),
        ({"name": "addition", "digits": ["2"]}, "task.digits.0: got '2'; input should be a valid integer"),
        ({"name": "addition", "digits": [True]}, "task.digits.0: got True; input should be a valid integer"),
        ({"name": "addition", "digits": 3}, "task.digits: got 3; input should be a valid array"),
        ({"name": "addition", "digits": [0]}, "task.digits: got [0]; expected different lengths from 1 up"),
        (
            {"name": "addition", "digits": [1], "spelling": "nya"},
            "task.spelling: got 'nya'; did you mean 'nye'? allowed: 'compact', 'nye' or 'hints'",
        ),
        ({"name": "os:path"}, "task.name: got 'os:path'; expected the path of a dataclass"),
        (
            {"name": "latentpad.tasks.addition:gold_lines"},
            "task.name: got 'latentpad.tasks.addition:gold_lines'; expected the path of a dataclass",
        ),
        ({"name": ":Addition"}, "task.name: cannot import ':Addition' (Empty module name)"),
        ({"name": "nowhere.at_all:Task"}, "task.name: cannot import 'nowhere.at_all:Task' (No module named 'nowhere')"),
    ],
)
def test_a_component_is_refused_in_one_line(options: Data, line: str) -> None:
    with pytest.raises(RecipeError) as error:
        build("task", Component.model_validate(options), TASKS)
    assert str(error.value) == line


def test_a_dotted_path_needs_no_table_line() -> None:
    component = Component.model_validate({"name": "latentpad.tasks.addition:Addition", "digits": [3, 1]})
    assert build("task", component, {}).cells == ("digits=1", "digits=3")


def test_train_and_ablate_each_send_the_others_file_back(written: Written, recipe_data: Data) -> None:
    path = written(recipe_data)
    with pytest.raises(RecipeError, match=f"run it with 'latentpad train {path}'"):
        load_plan(path)
    experiment = written({"experiment": "e", "arms": {}}, "experiment.yaml")
    with pytest.raises(RecipeError, match=f"run it with 'latentpad ablate {experiment}'"):
        load_recipe(experiment)


@pytest.mark.parametrize("name", ["3e-4", "1E5", "true", "007", "plain"])
def test_a_recipe_written_out_reads_back_the_same(written: Written, recipe_data: Data, name: str) -> None:
    recipe = Recipe.model_validate(recipe_data | {"name": name})
    assert load_recipe(written(dump(recipe))) == recipe


def test_a_recipe_read_anew_has_the_same_key(written: Written, recipe_data: Data) -> None:
    recipe = Recipe.model_validate(recipe_data)
    other_order = Recipe.model_validate(dict(reversed(recipe_data.items())) | {"seed": 0})
    assert content_key(load_recipe(written(dump(recipe)))) == content_key(recipe) == content_key(other_order)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("seed", 1),
        ("scratchpad", "empty"),
        ("task.digits", [1, 3]),
        ("model.scratch.layers", 2),
        ("model.lora", {"rank": 2, "alpha": 4.0}),
        ("rollout.temperature", 0.9),
        ("rollout.chunk_size", 16),
        ("training.steps", 3),
        ("training.learning_rate", 3.1e-4),
        ("training.checkpoint_every", 2),
        ("evaluation.problems", 5),
        ("rl.signal", "random"),
        ("algorithm.clip_low", 0.1),
    ],
)
def test_any_other_content_has_another_key(recipe_data: Data, key: str, value: object) -> None:
    before = content_key(Recipe.model_validate(recipe_data))
    assert content_key(Recipe.model_validate(spoilt(recipe_data, key, value))) != before


def test_the_key_knows_a_parent_by_its_content_and_not_by_its_place(recipe_data: Data) -> None:
    recipe = Recipe.model_validate(recipe_data | {"model": {"path": "here"}})
    moved = with_run(recipe, seed=0, path="there")
    assert content_key(moved) != content_key(recipe)
    assert content_key(moved, "a") == content_key(recipe, "a") != content_key(recipe, "b")


def test_another_seed_changes_nothing_else(recipe_data: Data) -> None:
    recipe = Recipe.model_validate(recipe_data)
    assert with_run(recipe, seed=5) == recipe.model_copy(update={"seed": 5})
