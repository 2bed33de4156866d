"""`method: prompt`: a model that is taught nothing sees worked examples in its prompt (Wei et al. 2022, 2201.11903).

The controls are of the same paper: the answers alone, fillers as long as the steps, and the steps after the answer.
They see the same examples, are cut and graded alike, and differ in what the examples show. A small model from scratch
has no in-context learning to speak of: expect chance. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from latentpad.formats import CHAT
from latentpad.models.tokenizer import encode_strictly
from latentpad.recipe.errors import RecipeError
from latentpad.seeding import name_of, rng_of
from latentpad.tasks import worked
from latentpad.training.filler import check_filler, filler_response
from reward import CLOSE_TAG, OPEN_TAG

if TYPE_CHECKING:
    from latentpad.evaluation.evaluate import Cell
    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.recipe.method_schema import PromptingSection
    from latentpad.recipe.schema import Recipe
    from latentpad.tasks import Task
    from latentpad.training.processes.world import World
    from latentpad.types import Problem

    Json = dict[str, Any]

# Draws from a cell until it is taken to have no problem that is not evaluated.
_MOST_DRAWS = 200


def section_of(recipe: Recipe) -> PromptingSection:
    """The section of a recipe of this method."""
    assert recipe.prompting is not None
    return recipe.prompting


def draws_of(recipe: Recipe) -> range:
    """The draws that are evaluated; without examples all would be the same, so there is one."""
    return range(section_of(recipe).draws if section_of(recipe).shots else 1)


def shown_problems(recipe: Recipe, task: Task, draw: int) -> list[Problem]:
    """The examples of a draw: of the train split, of the cells in turn, all different, none of them evaluated.

    They are decided by the recipe's seed and the draw: the same in every style, and fewer are the first of more. Where
    all splits share a cell its evaluated problems are passed over.

    Raises:
        RecipeError: there are not so many.
    """
    asked, shots, cells = recipe.evaluation, section_of(recipe).shots, task.cells
    evaluated = (*cells, *(cell for cell in asked.beyond if cell not in cells))
    seen = {task.canonical(p) for cell in evaluated for p in task.distinct(asked.split, cell, asked.problems)}
    first = rng_of("shots", recipe.seed, draw).randrange(len(cells))
    found: list[Problem] = []
    for place in range(shots):
        turn = [cells[(first + place + i) % len(cells)] for i in range(len(cells))]
        name = name_of("shots", recipe.seed, draw, place)
        problem = next((p for cell in turn if (p := _unseen(task, cell, name, seen)) is not None), None)
        if problem is None:
            raise RecipeError(
                f"prompting.shots: got {shots}; there are only about {len(found)} train problems that are not "
                f"evaluated: set it to {len(found)} or less, or evaluation.problems lower"
            )
        seen.add(task.canonical(problem))
        found.append(problem)
    return found


def _unseen(task: Task, cell: str, name: str, seen: set[str]) -> Problem | None:
    drawn = (task.draw("train", cell, name_of(name, i)) for i in range(_MOST_DRAWS))
    return next((problem for problem in drawn if task.canonical(problem) not in seen), None)


def shown_response(section: PromptingSection, task: Task, text_format: Format, problem: Problem, tokenizer: Any) -> str:
    """What an example answers, in the recipe's style."""
    answer = task.solution(problem)
    if section.style == "answer":
        return text_format.response(answer)
    scratchpad = worked(task).gold_scratchpad(problem)
    if section.style == "filler":
        return filler_response(tokenizer, text_format, section.filler, scratchpad, answer)
    if section.style == "scratchpad":
        return text_format.response(answer, scratchpad)
    return (
        f"{answer}{text_format.line_break}{text_format.response('', scratchpad).removesuffix(text_format.line_break)}"
    )


def few_shot(recipe: Recipe, task: Task, text_format: Format, tokenizer: Any, draw: int) -> Format:
    """The format with a draw's examples before every question.

    A pretrained model goes on after its answer, with a next question: whatever the style, its response ends before the
    first separator, unless examples are turns of a chat, which the model ends itself. Where steps come after the answer
    it ends before the first `<scratch>` too: what stands before is the answer, and only that is graded. Without
    examples it is the very format that was given, and nothing is cut.

    Raises:
        RecipeError: there are not so many examples.
    """
    section = section_of(recipe)
    if not section.shots:
        return text_format
    problems = shown_problems(recipe, task, draw)
    examples = [(p.question, shown_response(section, task, text_format, p, tokenizer)) for p in problems]
    shown = text_format.after_examples(examples, section.separator)
    return replace(shown, ends=(*shown.ends, OPEN_TAG)) if section.style == "scratchpad_after_answer" else shown


def evaluate_prompts(recipe: Recipe, policy: Policy, world: World) -> tuple[list[Cell], list[Json], list[Json]]:
    """As `evaluate`, for every draw: cells, records, and the tallies of draw 0.

    The decodings of draw 0 are called as ever (`greedy`), those of the others after it (`greedy, draw 1`).
    """
    from latentpad.evaluation.evaluate import evaluate
    from latentpad.formats import get_format
    from latentpad.rollout.local import LocalEngine
    from latentpad.tasks import build_task

    task, text_format = build_task(recipe.task), get_format(recipe.format, recipe.model.path)
    engine = LocalEngine(policy, chunk_size=recipe.rollout.chunk_size)
    cells: list[Cell] = []
    records: list[Json] = []
    tallies: list[Json] = []
    for draw in draws_of(recipe):
        shown = few_shot(recipe, task, text_format, policy.tokenizer, draw)
        found, lines, counts = evaluate(recipe, policy, engine, task, shown, world)
        named = f", draw {draw}" if draw else ""
        cells += [replace(cell, decoding=f"{cell.decoding}{named}") for cell in found]
        records += [line | {"decoding": f"{line['decoding']}{named}"} for line in lines]
        tallies += [] if draw else counts
    return cells, records, tallies


def check_prompting(recipe: Recipe, task: Task, text_format: Format, tokenizer: Any, positions: int) -> list[str]:
    """What can be found wrong with the section of a recipe of this method; nothing for other methods.

    Args:
        tokenizer: raw, of the `tokenizers` package.
        positions: of the model.

    Returns:
        what was found true, a line each.

    Raises:
        RecipeError: what is wrong, in one line.
    """
    if recipe.prompting is None:
        return []
    section, asked = recipe.prompting, recipe.evaluation
    _check_keys(recipe, section)
    if section.style != "answer":
        worked(task)
    if section.style == "filler":
        check_filler(tokenizer, section.filler, "prompting.filler")
    if recipe.format == CHAT and section.separator != "\n\n":
        raise RecipeError("prompting.separator: format 'chat' shows examples as earlier turns: remove it")
    if not section.shots:
        return ["no example is shown: the draws would all be the same, so there is one"]
    for problem in map(task.longest, () if recipe.format == CHAT else task.cells):
        if section.separator in shown_response(section, task, text_format, problem, tokenizer):
            raise RecipeError(
                f"prompting.separator: got {section.separator!r}, which is in the response of {problem.id}, and "
                "responses are cut there: expected text that no response holds"
            )
    most = 0
    for draw in draws_of(recipe):
        shown = few_shot(recipe, task, text_format, tokenizer, draw)
        for cell in (*task.cells, *asked.beyond):
            prompt = len(encode_strictly(tokenizer, shown.prompt(task.longest(cell).question)))
            most = max(most, prompt)
            if prompt + asked.max_new_tokens > positions:
                raise RecipeError(
                    f"prompting.shots: got {section.shots}; with draw {draw} a prompt of {cell} takes {prompt} tokens, "
                    f"and with evaluation.max_new_tokens ({asked.max_new_tokens}) the model has room for {positions}: "
                    "show fewer"
                )
    return [f"{len(draws_of(recipe))} draws of {section.shots} examples make prompts of at most {most} tokens"]


def _check_keys(recipe: Recipe, section: PromptingSection) -> None:
    """Refuse what would have no effect, or two things at once."""
    if recipe.model.scratch is not None:
        raise RecipeError("model.scratch: method 'prompt' trains nothing, and a new model knows nothing: give a 'path'")
    if recipe.model.lora is not None:
        raise RecipeError("model.lora: method 'prompt' trains nothing: remove it")
    if not section.shots and section.style != "answer":
        raise RecipeError(f"prompting.style: got {section.style!r}; with 0 shots nothing shows it: expected 'answer'")
    if section.filler != "." and section.style != "filler":
        raise RecipeError("prompting.filler: is of style 'filler': remove it")
    if not section.separator:
        raise RecipeError("prompting.separator: got ''; expected text between examples, such as two line breaks")
    if recipe.scratchpad == "empty" and section.style != "answer":
        raise RecipeError(
            f"prompting.style: got {section.style!r}; scratchpad 'empty' forbids {OPEN_TAG} and {CLOSE_TAG}: expected "
            "'answer'"
        )
