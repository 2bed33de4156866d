"""Long addition: the paper's scratchpad to the letter, right in every line, and splits that share no pair."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import latentpad
from latentpad.formats import get_format
from latentpad.recipe.errors import RecipeError
from latentpad.tasks import SPLITS
from latentpad.tasks.addition import Addition, gold_lines
from latentpad.tasks.addition_hints import LETTERS, columns, hinted, without_hints
from latentpad.types import Problem
from reward import Outcome, grade
from tests.tasks.contract import TaskContract

COMPACT = Addition(digits=(1, 2, 3, 4))
NYE = Addition(digits=(1, 2, 3, 4), spelling="nye")
NUMBERS = st.one_of(st.integers(0, 10**4), st.integers(0, 10**12))


class TestAdditionIsATask(TaskContract):
    worked = True
    small_cell = "digits=2"
    shared_cells = ("digits=1",)
    nonsense = ("digits=0", "digits=02", "digits=100", "degree=1")

    @pytest.fixture(params=["compact", "nye"])
    def options(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {"name": "addition", "digits": [1, 2, 3, 4], "spelling": request.param}


class TestHintedAdditionIsATask(TaskContract):
    worked = True
    small_cell = "digits=2"
    shared_cells = ("digits=1",)
    nonsense = ("digits=0", "digits=26", "degree=1")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"name": "addition", "digits": [1, 2, 3, 7], "spelling": "hints"}


def pair_of(problem: Problem) -> tuple[int, int]:
    a, b = sorted(int(part) for part in problem.question.replace(" ", "").split("+"))
    return a, b


def solve(lines: list[str]) -> int:
    """Follow the lines as a reader would, check that each follows from the one before, and read off the sum."""
    pattern = re.compile(r"(?:([0-9 ]+) \+ ([0-9 ]+) )?, ([0-9 ]*) C: ([01])")
    left, right, result, carry = [], [], "", 0
    for number, line in enumerate(lines[:-1]):
        match = pattern.fullmatch(line)
        assert match, line
        ours = [(text or "").split(" ") if text else [] for text in match.groups()[:3]]
        if number == 0:
            left, right = ours[0], ours[1]
        else:
            column = int(left.pop()) + int(right.pop()) + carry
            result, carry = f"{column % 10}{result}", column // 10
        assert ours == [left, right, list(result)]
        assert int(match[4]) == carry
    assert left == right == []
    assert lines[-1] == " ".join(f"{carry}{result}")
    return int(lines[-1].replace(" ", ""))


def test_the_figure_of_the_paper_byte_for_byte() -> None:
    problem, nye = NYE.parse("29+57"), get_format("nye")
    assert nye.prompt(problem.question) == "Input:\n2 9 + 5 7\n\nTarget:\n"
    assert nye.response(problem.answer, NYE.gold_scratchpad(problem)) == (
        "<scratch>\n2 9 + 5 7 ,  C: 0\n2 + 5 , 6 C: 1\n, 8 6 C: 0\n0 8 6\n</scratch>\n8 6"
    )


def test_three_digits_by_the_same_template() -> None:
    assert gold_lines(128, 367) == [
        "1 2 8 + 3 6 7 ,  C: 0",
        "1 2 + 3 6 , 5 C: 1",
        "1 + 3 , 9 5 C: 0",
        ", 4 9 5 C: 0",
        "0 4 9 5",
    ]


def test_a_last_carry_becomes_a_digit_of_the_answer() -> None:
    problem = COMPACT.parse("99+1")
    assert COMPACT.gold_scratchpad(problem) == "99+01,C:0\n9+0,0C:1\n,00C:1\n100"
    assert (problem.question, problem.answer, problem.cell) == ("99+1", "100", "digits=2")


def test_the_compact_spelling_is_the_papers_without_its_spaces() -> None:
    problem, compact = COMPACT.parse("29+57"), get_format("compact")
    assert compact.prompt(problem.question) == "29+57="
    assert compact.response(problem.answer, COMPACT.gold_scratchpad(problem)) == (
        "<scratch>29+57,C:0\n2+5,6C:1\n,86C:0\n086</scratch>86"
    )
    assert compact.response(problem.answer) == "86"


@given(NUMBERS, NUMBERS)
def test_an_independent_reader_finds_every_line_right(a: int, b: int) -> None:
    assert solve(gold_lines(a, b)) == a + b


def test_the_independent_reader_sees_a_wrong_line() -> None:
    lines = gold_lines(128, 367)
    for number, line in enumerate(lines):
        wrong = line.translate(str.maketrans("0123456789", "1234567890"))
        with pytest.raises(AssertionError):
            solve([*lines[:number], wrong, *lines[number + 1 :]])


@given(NUMBERS, NUMBERS, st.sampled_from([COMPACT, NYE]))
def test_a_gold_response_grades_correct_and_a_neighbour_wrong(a: int, b: int, task: Addition) -> None:
    problem = task.parse(f"{a}+{b}")
    text = get_format(task.spelling).response(problem.answer, task.gold_scratchpad(problem))
    assert grade(task.grader, text, problem.answer, **task.grader_options).outcome is Outcome.CORRECT
    other = task.parse(f"{a + 1}+{b}").answer
    assert grade(task.grader, other, problem.answer, **task.grader_options).outcome is Outcome.WRONG


@given(NUMBERS, NUMBERS, st.sampled_from([COMPACT, NYE]))
def test_the_alphabet_holds_every_character(a: int, b: int, task: Addition) -> None:
    problem = task.parse(f"{a}+{b}")
    assert set(problem.question + problem.answer + task.gold_scratchpad(problem)) <= set(task.alphabet)


def test_the_alphabet_holds_no_character_too_many() -> None:
    assert "".join(sorted(COMPACT.alphabet)) == "\n+,0123456789:C"
    assert "".join(sorted(NYE.alphabet)) == "\n +,0123456789:C"


@pytest.mark.parametrize("digits", [2, 3, 4, 9])
def test_no_pair_belongs_to_two_splits_in_either_order(digits: int) -> None:
    drawn = {
        split: {pair_of(COMPACT.draw(split, f"digits={digits}", f"run/{i}")) for i in range(1500)} for split in SPLITS
    }
    assert min(map(len, drawn.values())) > 150
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["test"] & drawn["validation"]


def test_every_pair_has_one_split_whatever_the_order() -> None:
    pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    assert len(pairs) == 8100
    assert all(Addition.split_of(a, b) == Addition.split_of(b, a) for a, b in pairs)
    shares = [Addition.split_of(a, b) for a, b in pairs if a <= b]
    assert shares.count("test") / len(shares) == pytest.approx(0.20, abs=0.02)
    assert shares.count("validation") / len(shares) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("split", SPLITS)
def test_two_digits_are_shared_out_whole(split: str) -> None:
    found = [pair_of(problem) for problem in COMPACT.distinct(split, "digits=2", 10**4)]
    assert len(found) == len(set(found))
    assert set(found) == {(a, b) for a in range(10, 100) for b in range(a, 100) if Addition.split_of(a, b) == split}


@pytest.mark.parametrize("split", SPLITS)
def test_one_digit_gives_all_100_problems_to_every_split(split: str) -> None:
    questions = [problem.question for problem in COMPACT.distinct(split, "digits=1", 7)]
    assert questions == [f"{a}+{b}" for a in range(10) for b in range(10)]


@pytest.mark.parametrize("digits", [2, 3, 4, 6])
def test_distinct_problems_have_different_pairs_of_their_length_and_split(digits: int) -> None:
    problems = COMPACT.distinct("test", f"digits={digits}", 400)
    pairs = [pair_of(problem) for problem in problems]
    assert len(problems) == len(set(pairs)) == 400
    assert {len(str(n)) for pair in pairs for n in pair} == {digits}
    assert {Addition.split_of(*pair) for pair in pairs} == {"test"}
    assert {(problem.split, problem.cell, problem.task) for problem in problems} == {
        ("test", f"digits={digits}", "addition")
    }


@pytest.mark.parametrize("digits", [2, 3, 5])
def test_more_distinct_problems_begin_with_the_same_ones(digits: int) -> None:
    cell = f"digits={digits}"
    assert COMPACT.distinct("test", cell, 300)[:40] == COMPACT.distinct("test", cell, 40)


def test_the_order_of_the_operands_is_no_hint() -> None:
    questions = [problem.question.split("+") for problem in COMPACT.distinct("test", "digits=2", 10**4)]
    ordered = sum(int(a) < int(b) for a, b in questions) / sum(a != b for a, b in questions)
    assert ordered == pytest.approx(0.5, abs=0.06)


def test_problems_are_the_same_in_another_process() -> None:
    code = (
        "from latentpad.tasks.addition import Addition; t = Addition(digits=(1,));"
        "print([p.question for p in t.distinct('test', 'digits=2', 5) + t.distinct('test', 'digits=4', 5)],"
        "t.draw('train', 'digits=3', 'a').question)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"}
    )
    ours = COMPACT.distinct("test", "digits=2", 5) + COMPACT.distinct("test", "digits=4", 5)
    drawn = COMPACT.draw("train", "digits=3", "a").question
    assert other.stdout.strip() == f"{[p.question for p in ours]} {drawn}"


def test_problems_stay_those_of_published_results() -> None:
    assert [p.question for p in COMPACT.distinct("test", "digits=2", 3)] == ["31+79", "28+60", "24+48"]
    assert [p.question for p in COMPACT.distinct("test", "digits=4", 3)] == ["6689+4474", "5886+7890", "5797+3067"]


def test_draws_repeat_by_name_and_differ_between_names() -> None:
    names = [f"run/{i}" for i in range(200)]
    first = [COMPACT.draw("train", "digits=4", name) for name in names]
    assert first == [COMPACT.draw("train", "digits=4", name) for name in names]
    assert len({problem.id for problem in first}) == 200


def test_spelling_changes_no_problem() -> None:
    compact = [pair_of(p) for p in COMPACT.distinct("test", "digits=3", 20)]
    assert [pair_of(p) for p in NYE.distinct("test", "digits=3", 20)] == compact


def test_an_id_names_task_split_and_operands_in_order() -> None:
    assert COMPACT.parse("57 + 29").id == "addition/typed/57+29"
    assert COMPACT.draw("test", "digits=2", "x").id.startswith("addition/test/")


@pytest.mark.parametrize("task", [COMPACT, NYE])
@pytest.mark.parametrize("digits", [1, 2])
def test_no_gold_response_of_the_cell_is_longer_than_that_of_the_longest(task: Addition, digits: int) -> None:
    def length(problem: Problem) -> int:
        return len(task.gold_scratchpad(problem)) + len(problem.answer)

    low = 0 if digits == 1 else 10
    lengths = [length(task.parse(f"{a}+{b}")) for a in range(low, 10**digits) for b in range(low, 10**digits)]
    assert length(task.longest(f"digits={digits}")) == max(lengths) > min(lengths)


@pytest.mark.parametrize(
    ("text", "question"), [("47+85", "47+85"), (" 4 7 + 8 5 ", "47+85"), ("007+5", "7+5"), ("0+0", "0+0")]
)
def test_a_typed_problem_may_have_spaces(text: str, question: str) -> None:
    assert COMPACT.parse(text).question == question


@pytest.mark.parametrize(
    "text", ["", "47", "47+", "+85", "47-85", "1+2+3", "-1+2", "a+b", "1.5+2", "\uff14+5", "4\n7+8", "9" * 100 + "+1"]
)
def test_anything_else_typed_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        COMPACT.parse(text)
    assert str(error.value).endswith("expected two whole numbers of at most 99 digits, such as '47+85'")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cell", ["", "digits=0", "digits=", "digits=100", "digits=02", "digits=2 ", "3", "digits=2\n"])
def test_a_cell_is_named_digits_n(cell: str) -> None:
    with pytest.raises(RecipeError, match="expected digits=N with N from 1 to 99"):
        COMPACT.check_cell(cell)


def test_cells_go_from_easy_to_hard() -> None:
    assert Addition(digits=(10, 2, 9)).cells == ("digits=2", "digits=9", "digits=10")


@pytest.mark.parametrize("digits", [(), (0,), (-1, 2), (2, 2)])
def test_lengths_are_different_and_positive(digits: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match=r"^task\.digits: got \[.*\]; expected different lengths from 1 up$"):
        Addition(digits=digits)


@pytest.mark.parametrize(("spelling", "spaced"), [("compact", False), ("nye", True)])
def test_the_grader_reads_the_tasks_spelling(spelling: Literal["compact", "nye"], spaced: bool) -> None:
    assert Addition(digits=(1,), spelling=spelling).grader_options == {"spaced_digits": spaced}


def test_only_what_is_taught_or_shown_and_the_start_up_checks_ask_for_gold_scratchpads() -> None:
    rooms = sorted(Path(latentpad.__file__).parent.rglob("*.py"))
    files = [file for file in rooms if file.parent.name != "tasks"]
    asking = {file.name for file in files if ".gold_scratchpad(" in file.read_text(encoding="utf-8")}
    taught = {file.name for file in files if "import gold_response" in file.read_text(encoding="utf-8")}
    assert len(files) >= 40
    assert asking == {"preflight.py", "corpus.py", "rationales.py", "prompting.py"}
    assert taught == set()


def test_a_split_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="split: got 'dev'; expected one of train, validation, test"):
        COMPACT.draw("dev", "digits=2", "any")


HINTED = Addition(digits=(1, 2, 3, 4), spelling="hints", primitives={"sums_in_place": 0.5, "pairs": 0.5})


def test_hints_name_the_columns_and_say_nothing_else() -> None:
    problem = HINTED.parse("47+85")
    first = LETTERS.index(problem.question[-2])
    assert problem.question == f"{hinted('47', first)}+{hinted('85', first)}"
    assert problem.answer == hinted("132", first)
    assert without_hints(problem.question) == "47+85"
    # Every letter stands for units somewhere: short numbers show all of them.
    units = {HINTED.draw("train", "digits=3", str(i)).question[-2] for i in range(400)}
    assert units == set(LETTERS)


def test_an_answer_in_the_wrong_columns_is_wrong() -> None:
    problem = HINTED.parse("47+85")
    shifted = hinted("132", LETTERS.index(problem.question[-2]) + 1)
    for answer, outcome in ((problem.answer, Outcome.CORRECT), (shifted, Outcome.WRONG), ("132", Outcome.WRONG)):
        assert grade(HINTED.grader, answer, problem.answer, **HINTED.grader_options).outcome is outcome


@given(NUMBERS, NUMBERS)
def test_columns_lead_to_the_sum(a: int, b: int) -> None:
    problem = HINTED.parse(f"{a}+{b}")
    assert without_hints(HINTED.read_scratchpad(problem, HINTED.gold_scratchpad(problem))) == str(a + b)


def test_columns_carry_worked_by_hand() -> None:
    # 7 + 5 = 12, 4 + 8 + 1 = 13
    assert columns("47", "85", LETTERS.index("y")) == ["y75:21", "z48:31"]
    assert columns("999", "1", LETTERS.index("y")) == ["y91:01", "z90:01", "a90:01"]


def test_no_primitive_adds_two_numbers() -> None:
    """No sum follows copied digits, and a sum in place gets a carry that has nothing to do with the one before."""
    for index in range(300):
        text = HINTED.primitive(str(index))
        assert "=" not in text
        if "+" in text:
            assert re.fullmatch(r"([a-z][0-9])+\+([a-z][0-9])+:([a-z][0-9][0-9])+", text)
            continue
        steps = [re.fullmatch(r"[0-9]([01])[a-z]([0-9])([0-9]):([0-9])([01])", step) for step in text.split(";")]
        for step in steps:
            assert step is not None
            carry, a, b, digit, out = map(int, step.groups())
            assert 10 * out + digit == a + b + carry
    carries = [re.findall(r"[0-9]([01])[a-z]..:.([01])", HINTED.primitive(str(i))) for i in range(300)]
    kept = [before[1] == after[0] for doc in carries for before, after in pairwise(doc)]
    assert 0.45 < sum(kept) / len(kept) < 0.55


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"primitives": {"sum": 1.0}},
            "task.primitives: got {'sum': 1.0}; expected a share of sums, sums_in_place, pairs",
        ),
        ({"primitives": {}}, "task.primitives: got {}; expected a share of sums, sums_in_place, pairs"),
        ({"primitive_digits": 26}, "task.primitive_digits: got 26; expected 1 to 25"),
        ({"digits": (26,)}, "cell 'digits=26': expected digits=N with N from 1 to 25, such as 'digits=5'"),
    ],
)
def test_options_of_hints_that_cannot_be_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError) as error:
        Addition(**{"digits": (1,), "spelling": "hints"} | options)
    assert str(error.value) == line


def test_without_hints_there_are_no_documents_of_single_steps() -> None:
    with pytest.raises(RecipeError, match=r"only task\.spelling 'hints' shows single steps"):
        COMPACT.primitive("x")
