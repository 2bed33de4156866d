"""Chat templates of checkpoints as formats: around a question, and with examples as earlier turns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from latentpad.evaluation.prompting import few_shot, shown_problems
from latentpad.experiments.run import run_recipe
from latentpad.formats import ChatFormat, get_format
from latentpad.models.policy import load_policy
from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Recipe, ScratchSection
from latentpad.tasks import worked
from latentpad.training.episodes import make_prompt
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

# Written with the few characters that the tiny tokenizer knows: `C` before the user's turns, `:` before the others.
TEMPLATE = (
    "{% for m in messages %}{{ 'C' if m.role == 'user' else ':' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)
SIZES = ScratchSection(hidden_size=16, layers=1, heads=2, intermediate_size=32, max_positions=512)


def saved(folder: Path, template: str | None = TEMPLATE) -> Path:
    policy = tiny.policy(sizes=SIZES)
    if template is not None:
        policy.tokenizer.chat_template = template
    policy.save(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("chat") / "model")


def recipe(model: Path, **prompting: Any) -> Recipe:
    data = {
        "name": "chat",
        "method": "prompt",
        "task": {"name": "addition", "digits": [2]},
        "format": "chat",
        "model": {"path": str(model)},
        "rollout": {"max_new_tokens": 48, "chunk_size": 16},
        "evaluation": {"problems": 4, "max_new_tokens": 48},
        "prompting": {"shots": 2, "style": "scratchpad", "draws": 1, **prompting},
    }
    return Recipe.model_validate(data)


def test_a_question_is_the_users_message_as_the_tokenizer_renders_it(model: Path) -> None:
    policy, problem = load_policy(model), tiny.task().parse("12+34")
    prompt = make_prompt(policy, get_format("chat", str(model)), problem)
    messages = [{"role": "user", "content": "12+34"}]
    rendered = policy.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.text == rendered == "C12+34\n:"


def test_examples_are_earlier_turns_and_nothing_is_cut(model: Path) -> None:
    policy, task, made = load_policy(model), worked(tiny.task()), recipe(model)
    a, b = shown_problems(made, task, 0)
    text_format = few_shot(made, task, get_format("chat", str(model)), policy.tokenizer, 0)
    answers = [f"<scratch>\n{task.gold_scratchpad(p)}\n</scratch>\n{p.answer}" for p in (a, b)]
    assert text_format.prompt("12+34") == f"C{a.question}\n:{answers[0]}\nC{b.question}\n:{answers[1]}\nC12+34\n:"
    assert text_format.ends == ()
    after = few_shot(
        recipe(model, style="scratchpad_after_answer"), task, get_format("chat", str(model)), policy.tokenizer, 0
    )
    assert after.ends == ("<scratch>",)


def test_a_run_asks_in_the_template(model: Path, tmp_path: Path) -> None:
    run_recipe(recipe(model), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "eval" / "0.jsonl").read_text().splitlines()]
    assert len(records) == 8
    assert all(line["prompt"].count("C") > 2 and line["prompt"].endswith("\n:") for line in records)


def test_the_room_for_a_prompt_counts_the_template(model: Path) -> None:
    lines = check_recipe(recipe(model, style="answer", shots=1))
    [line] = [line for line in lines if "examples make prompts" in line]
    # C99+99\n: and before it an example, C12+34\n:46\n or with a sum of three digits
    assert line.rpartition("at most ")[2] in ("19 tokens", "20 tokens")


def test_what_has_no_chat_template_is_refused_in_one_line(tmp_path: Path, model: Path) -> None:
    bare = saved(tmp_path / "bare", None)
    for made, line in (
        (recipe(bare), rf"^format: 'chat' needs a tokenizer with a chat template; {bare} has none: take another"),
        (recipe(tmp_path / "nowhere"), r"^model\.path: no such folder"),
        (tiny.recipe("rl").model_copy(update={"format": "chat"}), r"^format: 'chat' is the chat template of a checkp"),
        (recipe(model, separator=":"), r"^prompting\.separator: format 'chat' shows examples as earlier turns: remove"),
    ):
        with pytest.raises(RecipeError, match=line):
            check_recipe(made)


@pytest.mark.parametrize("template", ["{{ messages[0].content }}{{ messages[0].content }}", "none"])
def test_a_template_that_changes_what_the_user_says_is_refused(template: str) -> None:
    with pytest.raises(RecipeError, match=r"^format: 'chat' needs a chat template that shows the user's message once"):
        ChatFormat.of(lambda messages: template.replace("{{ messages[0].content }}", messages[0]["content"]))
