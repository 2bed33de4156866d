"""What can be found wrong with a recipe before anything heavy is loaded. Imports no torch."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.evaluation.prompting import check_prompting
from latentpad.formats import get_format
from latentpad.models.tokenizer import character_tokenizer, encode_strictly, raw_tokenizer
from latentpad.recipe.errors import MachineError, RecipeError, unknown
from latentpad.tasks import ProgramTask, WorkedTask, build_task, executes_programs, primitive_task, worked
from latentpad.training.examples import check_supervised
from latentpad.training.rl_checks import check_gold_fits, check_rl
from latentpad.training.rounds import check_expert_iteration
from reward import CLOSE_TAG, OPEN_TAG, Outcome, Reward, grade
from reward.sandbox import Run, Settings, Status, configure, shared

if TYPE_CHECKING:
    from latentpad.formats import Format
    from latentpad.recipe.load import Plan
    from latentpad.recipe.schema import ModelSection, Recipe
    from latentpad.tasks import Task
    from latentpad.types import Problem


# How many programs of each cell are executed at start.
_PROGRAMS_CHECKED = 10


def check_recipe(recipe: Recipe, origin: ModelSection | None = None) -> list[str]:
    """Check a recipe against its task, format, algorithm and model.

    Args:
        recipe: validated by its schema.
        origin: where the model comes from in the end, if the run starts from an arm that has not run yet.

    Returns:
        what was found true, a line each.

    Raises:
        RecipeError: what is wrong, in one line.
    """
    use_sandbox(recipe)
    task, text_format = build_task(recipe.task), get_format(recipe.format, (origin or recipe.model).path)
    for cell in recipe.evaluation.beyond:
        task.check_cell(cell)
    _check_named_cells(recipe, task)
    if recipe.rl is not None:
        check_rl(recipe, task)
    if recipe.pretrain is not None and recipe.pretrain.scratchpad_share > 0:
        worked(task)
    if recipe.pretrain is not None and recipe.pretrain.primitive_share is not None:
        primitive_task(task)
    tokenizer, positions = _tokenizer(origin or recipe.model, task, text_format)
    if recipe.supervised is not None:
        check_supervised(recipe.supervised, task, text_format, tokenizer)
    vocabulary = tokenizer.get_vocab()
    if recipe.scratchpad == "empty" and not {OPEN_TAG, CLOSE_TAG} <= set(vocabulary):
        raise RecipeError(f"scratchpad: 'empty' needs {OPEN_TAG} and {CLOSE_TAG} to be tokens of the tokenizer")
    lines = [_check_gold(task, text_format)]
    if executes_programs(task):
        lines.append(_check_programs(task))
    if recipe.rl is not None:
        lines.append(_check_chunks(recipe))
        check_gold_fits(recipe, task, text_format, tokenizer, positions)
    lines += check_expert_iteration(recipe, task, text_format, tokenizer, positions)
    lines += check_prompting(recipe, task, text_format, tokenizer, positions)
    beyond = [cell for cell in recipe.evaluation.beyond if cell not in task.cells]
    limits = [("evaluation.max_new_tokens", recipe.evaluation.max_new_tokens, [*task.cells, *beyond])]
    if recipe.rl is not None or recipe.expert_iteration is not None:
        limits.insert(0, ("rollout.max_new_tokens", recipe.rollout.max_new_tokens, list(task.cells)))
    for key, limit, cells in limits:
        needed = [_tokens_needed(cell, recipe, task, text_format, tokenizer) for cell in cells]
        lines.append(_check_limit(key, limit, dict(zip(cells, needed, strict=True)), positions))
    return lines


def refuse_missing_packages(recipe: Recipe, *, deepspeed: bool = False) -> None:
    """What the recipe needs beyond the core must be installed, told before any work is done.

    Raises:
        MachineError: TRL or datasets is not installed, and the method is supervised; or bitsandbytes is not, and the
            recipe quantises the model or its optimizer's state; or DeepSpeed is not, and the launch asks for it.
    """
    if deepspeed and find_spec("deepspeed") is None:
        raise MachineError("the launch asks for DeepSpeed, which is not installed: pip install 'latentpad[deepspeed]'")
    if recipe.method == "supervised" and not all(find_spec(name) for name in ("trl", "datasets")):
        raise MachineError("method 'supervised' needs TRL: pip install 'latentpad[trl]'")
    if recipe.rollout.engine == "ray" and find_spec("ray") is None:
        raise MachineError("rollout.engine 'ray' needs Ray: pip install 'latentpad[ray]'")
    if recipe.rollout.engine == "vllm" and find_spec("vllm") is None:
        raise MachineError("rollout.engine 'vllm' needs vLLM, in an environment of its own: see docker/README.md")
    if find_spec("bitsandbytes") is None:
        named = {"model.quantisation": recipe.model.quantisation, "training.optimizer": recipe.training.optimizer}
        for key, value in named.items():
            if value not in (None, "adamw"):
                raise MachineError(f"{key} {value!r} needs bitsandbytes: pip install 'latentpad[bitsandbytes]'")


def check_plan(plan: Plan) -> list[str]:
    """Check every arm of an experiment; raises as `check_recipe`, the line naming the arm."""
    lines, origins = [], dict[str, Any]()
    untrained = {arm.name for arm in plan.arms if arm.recipe.method == "prompt"}
    for arm in plan.arms:
        if arm.start_from in untrained:
            raise RecipeError(
                f"arms.{arm.name}.from: {arm.start_from!r} trains nothing: start from what it starts from"
            )
        origins[arm.name] = arm.recipe.model if arm.start_from is None else origins[arm.start_from]
        try:
            lines += [f"arms.{arm.name}: {line}" for line in check_recipe(arm.recipe, origins[arm.name])]
        except RecipeError as error:
            raise RecipeError(f"arms.{arm.name}.{error}") from error
    task = build_task(plan.arms[0].recipe.task)
    named = {f"published {band.label!r}": band.cells for band in plan.published}
    named |= {} if plan.headline is None else {"headline": [plan.headline]}
    for where, cells in named.items():
        for cell in cells:
            try:
                task.check_cell(cell)
            except RecipeError as error:
                raise RecipeError(f"{where}: {error}") from error
    return lines


def _check_named_cells(recipe: Recipe, task: Task) -> None:
    """Problems to train on come from the task's own cells."""
    named: dict[str, list[str] | None] = {}
    if recipe.rl is not None:
        ladder = recipe.rl.ladder
        named |= {"rl.cells": recipe.rl.cells, "rl.ladder.rungs": None if ladder is None else ladder.rungs}
    if recipe.pretrain is not None:
        named |= {"pretrain.cells": recipe.pretrain.cells, "pretrain.worked_cells": recipe.pretrain.worked_cells}
    if recipe.supervised is not None:
        named["supervised.cells"] = recipe.supervised.cells
    if recipe.expert_iteration is not None:
        named["expert_iteration.cells"] = recipe.expert_iteration.cells
    for key, cells in named.items():
        for cell in cells or []:
            if cell not in task.cells:
                raise RecipeError(f"{key}: {unknown('cell', cell, task.cells)}")


def _tokenizer(model: ModelSection, task: Task, text_format: Format) -> tuple[Any, int]:
    """The tokenizer, and how many positions the model has."""
    if model.scratch is not None:
        return character_tokenizer(task.alphabet + text_format.alphabet), model.scratch.max_positions
    path = Path(model.path or "")
    if not path.is_dir():
        raise RecipeError(f"model.path: no such folder: {model.path}")
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise RecipeError(f"model.path: {file} is not readable as JSON ({error})") from error
    return raw_tokenizer(path), int(config.get("max_position_embeddings", 10**9))


def _check_gold(task: Task, text_format: Format) -> str:
    """Gold answers must grade CORRECT and a wrong one must not, or the reward teaches nothing."""
    for cell in task.cells:
        problem = task.longest(cell)
        solution = task.solution(problem)
        right = _grade(task, text_format.response(solution, _gold_scratchpad(task, problem)), problem)
        spoilt = [_grade(task, text_format.response(text), problem) for text in _spoilt(task, problem, solution)]
        if right.outcome is not Outcome.CORRECT or all(reward.outcome is Outcome.CORRECT for reward in spoilt):
            raise RecipeError(f"task: the grader does not tell the gold answer of {problem.id} from a wrong one")
    return "gold answers grade CORRECT, and a changed one does not"


def _grade(task: Task, response: str, problem: Problem) -> Reward:
    return grade(task.grader, response, problem.answer, **task.grader_options)


def _spoilt(task: Task, problem: Problem, solution: str) -> list[str]:
    """A solution with a digit put behind or before the answer in it; for a program, one that does nothing.

    One of the two may still be right (`12.50` is 12.5, `07` is 7), both are not.
    """
    if task.grader == "program":
        return ["pass"]
    before, answer, after = solution.rpartition(problem.answer)
    if not answer:  # the gold answer is written otherwise than the solution
        answer, after = solution, ""
    return [f"{before}{answer}0{after}", f"{before}7{answer}{after}"]


def use_sandbox(recipe: Recipe) -> None:
    """Let everything in this process that executes programs do it as the recipe says."""
    section = {} if recipe.sandbox is None else recipe.sandbox.model_dump()
    try:
        configure(Settings(**section))
    except ValueError as error:
        raise RecipeError(str(error)) from error


def containment(task: Task) -> str:
    """What contains the programs that a run of this task executes; for its record."""
    if not executes_programs(task):
        return "none: no program is executed"
    # Results are published: the interpreter's name and version, not where it lies.
    lines = [ln.partition(",")[0] if ln.startswith("interpreter:") else ln for ln in shared().describe()]
    return "; ".join(lines)


def _check_programs(task: Task) -> str:
    """Programs must print their gold answers when they are really executed."""
    sandbox = shared()
    if isinstance(task, ProgramTask):
        problems = [p for cell in task.cells for p in task.distinct("validation", cell, _PROGRAMS_CHECKED)]
        results = sandbox.run_many([Run(task.program(problem)) for problem in problems])
        for problem, result in zip(problems, results, strict=True):
            if result.status is Status.SANDBOX_ERROR:
                raise MachineError(f"the sandbox broke on a program of the task: {result.stderr[-200:]}")
            if result.status is not Status.OK or result.stdout.rstrip() != problem.answer:
                raise RecipeError(
                    f"task: the program of {problem.id} does not print its gold answer (it ends with {result.status})"
                )
    return f"programs run in the sandbox (tier {sandbox.tier})"


def _gold_scratchpad(task: Task, problem: Problem) -> str | None:
    return task.gold_scratchpad(problem) if isinstance(task, WorkedTask) else None


def _check_chunks(recipe: Recipe) -> str:
    size, chunk = recipe.rl_section.group_size, recipe.rollout.chunk_size
    if chunk % size:
        raise RecipeError(f"rollout.chunk_size: got {chunk}; expected a multiple of rl.group_size ({size})")
    return f"a step samples {recipe.rl_section.prompts_per_step} prompts x {size}, in chunks of {chunk}"


def _tokens_needed(cell: str, recipe: Recipe, task: Task, text_format: Format, tokenizer: Any) -> tuple[int, int]:
    """Tokens of the cell's longest problem: its prompt, and its gold response with the stop token."""
    problem = task.longest(cell)
    scratchpad = _gold_scratchpad(task, problem) if recipe.scratchpad == "free" else None
    response = text_format.response(task.solution(problem), scratchpad)
    prompt = encode_strictly(tokenizer, text_format.prompt(problem.question))
    return len(prompt), len(encode_strictly(tokenizer, response)) + 1


def _check_limit(key: str, limit: int, needed: dict[str, tuple[int, int]], positions: int) -> str:
    """The longest gold response of every cell must fit the length limit, and with its prompt the model."""
    for cell, (prompt, response) in needed.items():
        if response > limit:
            raise RecipeError(
                f"{key}: got {limit}; the longest gold response of {cell} takes {response} tokens: "
                f"set it to {response} or more"
            )
        if prompt + limit > positions:
            raise RecipeError(
                f"{key}: got {limit}; with a prompt of {prompt} tokens ({cell}) the model has room for {positions}"
            )
    return f"{key} {limit} holds the longest gold response of {', '.join(needed)}"
