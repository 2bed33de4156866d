"""Programs: run in the sandbox, compared outside. First against a fake that scripts what runs return, then for real."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from reward import GoldAnswerError, Outcome, Reward, check_gold, grade, grade_many, program
from reward.sandbox import ExecutionResult, Limits, SandboxUnavailable, Status, shared
from reward.sandbox.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable

Ran = list[tuple[str, str, str, Limits | None]]
ADD = json.dumps({"tests": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 6\n", "stdout": "11\n"}]})
PLUS_ONE = json.dumps({"asserts": ["assert f(1) == 2", "assert not f(-1)"]})


def ended(status: Status = Status.OK, stdout: str = "", stderr: str = "", result: str = "") -> ExecutionResult:
    return ExecutionResult(status, stdout, stderr, 0, 0.0, 0.0, result)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Script the results of the next runs; what was run is recorded."""

    def script(*results: ExecutionResult | Exception) -> Ran:
        ran: Ran = []
        rest = iter(results)

        class Fake:
            def run(self, source: str, stdin: str = "", *, call: str = "", limits: Limits | None = None) -> Any:
                ran.append((source, stdin, call, limits))
                result = next(rest)
                if isinstance(result, Exception):
                    raise result
                return result

        monkeypatch.setattr(program, "shared", Fake)
        return ran

    return script


def test_one_process_a_test_until_the_first_that_fails_and_no_expected_output_goes_in(
    sandbox: Callable[..., Ran],
) -> None:
    ran = sandbox(ended(stdout="3\n"), ended(stdout="11 \n\n"))
    assert grade("program", "source", ADD) == Reward(1.0, Outcome.CORRECT)
    assert [entry[:3] for entry in ran] == [("source", "1 2\n", ""), ("source", "5 6\n", "")]
    ran = sandbox(ended(stdout="4\n"))
    reward = grade("program", "source", ADD)
    assert reward == Reward(0.0, Outcome.WRONG, "test 1 of 2: printed '4\\n', which is not the expected output")
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("result", "outcome", "detail"),
    [
        (ended(Status.TIMEOUT), Outcome.WRONG, "test 1 of 2: timeout"),
        (
            ended(Status.ERROR, stderr="Traceback\n  x\nValueError: no"),
            Outcome.WRONG,
            "test 1 of 2: error: ValueError: no",
        ),
        (ended(Status.MEMORY, "3\n"), Outcome.WRONG, "test 1 of 2: memory"),
        (ended(Status.OUTPUT_LIMIT, "3\n"), Outcome.WRONG, "test 1 of 2: output_limit"),
        (ended(Status.KILLED, "3\n"), Outcome.WRONG, "test 1 of 2: killed"),
        (ended(Status.ERROR, "3\n"), Outcome.WRONG, "test 1 of 2: error"),
        (ended(Status.INVALID_SOURCE, "3\n", "too long"), Outcome.UNPARSEABLE, "test 1 of 2: invalid_source: too long"),
        (ended(Status.ERROR, "", "SyntaxError: bad"), Outcome.UNPARSEABLE, "test 1 of 2: error: SyntaxError: bad"),
        (ended(stdout="\udcff"), Outcome.WRONG, "test 1 of 2: printed '\\udcff', which is not the expected output"),
    ],
)
def test_every_end_but_a_good_one_is_worth_nothing(
    sandbox: Callable[..., Ran], result: ExecutionResult, outcome: Outcome, detail: str
) -> None:
    assert len(Status) == 8, "a new status: say here what it is worth"
    sandbox(result)
    assert grade("program", "source", ADD) == Reward(0.0, outcome, detail)


def test_a_sandbox_that_breaks_is_asked_once_more_and_is_never_the_programs_fault(sandbox: Callable[..., Ran]) -> None:
    broken = ended(Status.SANDBOX_ERROR, stderr="fork failed")
    sandbox(broken, ended(stdout="3"), ended(stdout="11"))
    assert grade("program", "source", ADD).outcome is Outcome.CORRECT
    sandbox(broken, broken)
    reward = grade("program", "source", ADD)
    assert reward == Reward(0.0, Outcome.GRADER_FAILED, "SandboxBroke: the sandbox failed twice: fork failed")


def test_a_machine_without_a_sandbox_stops_the_work(sandbox: Callable[..., Ran]) -> None:
    sandbox(SandboxUnavailable("no seccomp"))
    with pytest.raises(SandboxUnavailable):
        grade_many("program", [("source", ADD, False)])


def test_values_are_asked_for_and_judged_outside(sandbox: Callable[..., Ran]) -> None:
    ran = sandbox(ended(result=encode((2,))), ended(result=encode((0,))), ended())
    assert grade("program", "source", PLUS_ONE).outcome is Outcome.CORRECT
    assert [entry[:3] for entry in ran] == [
        ("source", "", "(f(1),)"),
        ("source", "", "(f(-1),)"),
        ("\nvalue_0 = 0\nassert not value_0\n", "", ""),
    ]


@pytest.mark.parametrize(
    "result", ["", "null", encode(2), encode([2]), encode((2, 2)), encode(()), '["t",[["i","02"]]]', "["]
)
def test_a_forged_or_missing_result_is_wrong(sandbox: Callable[..., Ran], result: str) -> None:
    sandbox(ended(result=result), ended(Status.ERROR))
    assert grade("program", "source", json.dumps({"asserts": ["assert f(1) == 2"]})).outcome is Outcome.WRONG


def test_options_set_the_limits(sandbox: Callable[..., Ran]) -> None:
    ran = sandbox(ended(stdout="3"), ended(stdout="11"))
    grade("program", "source", ADD, cpu_seconds=4, memory_mb=128)
    assert ran[0][3] == Limits(cpu_seconds=4, wall_seconds=40, memory_mb=128)


@pytest.mark.parametrize(
    ("answer", "source"),
    [
        ("print(1)", "print(1)"),
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("So:\n```py\nprint(1)\n\nprint(2)\n```\nThat is all.", "print(1)\n\nprint(2)\n"),
        ("```python\n```", ""),
        ("x = '``'", "x = '``'"),
        ("```python\nprint(1)\n```\n```python\nprint(2)\n```", None),
        ("```python\nprint(1)", None),
        ("print(1)\n```", None),
        ("```bash\nls\n```", None),
        ("```python print(1)```", None),
        ("  ```python\nprint(1)\n  ```", None),
        ("```python\n'''\n```\n'''\n```", None),
    ],
)
def test_one_fence_is_taken_off_where_it_is_asked_for(
    sandbox: Callable[..., Ran], answer: str, source: str | None
) -> None:
    ran = sandbox(ended(stdout="3"), ended(stdout="11"))
    reward = grade("program", answer, ADD, fences=True)
    assert reward.outcome is (Outcome.UNPARSEABLE if source is None else Outcome.CORRECT)
    assert [entry[0] for entry in ran] == ([] if source is None else [source, source])
    ran = sandbox(ended(stdout="3"), ended(stdout="11"))
    grade("program", answer, ADD)
    assert ran[0][0] == answer.strip()


@pytest.mark.parametrize(
    "gold",
    [
        *[
            "",
            "x",
            "[]",
            "{}",
            '{"tests": []}',
            '{"asserts": []}',
            '{"tests": {}}',
            '{"tests": [1]}',
            '{"tests": ["a"]}',
        ],
        *[
            '{"tests": [{"stdin": "1"}]}',
            '{"tests": [{"stdin": 1, "stdout": "1"}]}',
            '{"tests": [{"stdin": "", "stdout": 1}]}',
        ],
        *[
            '{"tests": [{"stdin": "", "stdout": "1", "x": 1}]}',
            '{"tests": [{"stdin": "", "stdout": "1"}], "setup": ""}',
        ],
        *[
            '{"tests": [{"stdin": "", "stdout": "1"}], "asserts": []}',
            '{"tests": [{"stdin": "\\ud800", "stdout": ""}]}',
        ],
        *['{"asserts": [1]}', '{"asserts": ["assert 1 == 1"]}', '{"asserts": ["f(1)"]}', '{"asserts": ["assert f("]}'],
        *['{"asserts": ["assert f(1)"], "setup": "def"}', '{"asserts": ["assert f(1)"], "setup": 1}'],
        *['{"asserts": ["assert f(1)"], "setup": "f = 1"}', '{"asserts": ["assert f(1)"], "entry": "g"}'],
        json.dumps({"asserts": [f"assert f('{'a' * 70000}') == 1"]}),
        json.dumps({"asserts": ["assert f(1)"], "setup": "#" * 40000}),
        json.dumps({"tests": [{"stdin": "a" * (1 << 20) + "b", "stdout": "1"}]}),
        json.dumps({"asserts": ["assert check(f(1))"], "reference": "def f(x): return x"}),
    ],
)
def test_tests_that_cannot_be_used_are_an_error_of_the_data(gold: str) -> None:
    with pytest.raises(GoldAnswerError, match=r"^gold answer '.{0,90}' "):
        check_gold("program", gold)


def test_an_expected_output_must_be_readable_by_the_mode() -> None:
    check_gold("program", ADD, mode="number")
    with pytest.raises(GoldAnswerError):
        check_gold("program", '{"tests": [{"stdin": "", "stdout": "x"}]}', mode="number")


# --- for real ---


@pytest.fixture(scope="module")
def real() -> None:
    try:
        shared()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox on this machine: {error}")


@pytest.mark.usefixtures("real")
class TestForReal:
    @pytest.mark.parametrize(
        ("source", "outcome", "detail"),
        [
            ("print(sum(map(int, input().split())))", Outcome.CORRECT, ""),
            ("print(3)", Outcome.WRONG, "test 2 of 2: printed"),
            ("print(3); print(11)", Outcome.WRONG, "test 1 of 2: printed"),
            ("pass", Outcome.WRONG, "test 1 of 2: printed ''"),
            ("print(3", Outcome.UNPARSEABLE, "test 1 of 2: error: SyntaxError"),
            ("print(3)\n  print(4)", Outcome.UNPARSEABLE, "test 1 of 2: error: IndentationError"),
            ("\udc80", Outcome.UNPARSEABLE, "test 1 of 2: invalid_source"),
            ("#" * 70000, Outcome.UNPARSEABLE, "test 1 of 2: invalid_source"),
            ("while True: pass", Outcome.WRONG, "test 1 of 2: timeout"),
            ("a = [0] * 10**9", Outcome.WRONG, "test 1 of 2: memory"),
            ("while True: print(3)", Outcome.WRONG, "test 1 of 2: output_limit"),
            ("print(3); import sys; sys.exit(1)", Outcome.WRONG, "test 1 of 2: error"),
            ("import os; os._exit(0)", Outcome.WRONG, "test 1 of 2: printed ''"),
            ("import os; os.abort()", Outcome.WRONG, "test 1 of 2: killed"),
            ("print(open('/etc/passwd').read())", Outcome.WRONG, "test 1 of 2: error"),
            ("import reward", Outcome.WRONG, "test 1 of 2: error: ModuleNotFoundError"),
        ],
    )
    def test_a_table_of_programs_that_print(self, source: str, outcome: Outcome, detail: str) -> None:
        reward = grade("program", source, ADD, cpu_seconds=0.5)
        assert reward.outcome is outcome
        assert reward.detail.startswith(detail)
        assert "\n" not in reward.detail

    @pytest.mark.parametrize(
        ("source", "right"),
        [
            ("def f(x): return x + 1", True),
            ("f = (1).__add__", True),
            ("def f(x): return float(x + 1)", True),  # as `==` has it
            ("def f(x): return x", False),
            ("def f(x): return str(x + 1)", False),
            ("def f(x): print(x + 1)", False),
            ("def f(x): raise SystemExit(0)", False),
            ("import os\ndef f(x): os._exit(0)", False),
            (
                "class E:\n    def __eq__(s, o): return True\n    def __bool__(s): return False\ndef f(x): return E()",
                False,
            ),
            ("class E(int):\n    def __eq__(s, o): return True\ndef f(x): return E(7)", False),
            ("import builtins\nbuiltins.bool = lambda x: False\ndef f(x): return 7", False),
            ("import sys\nsys.modules['reward.sandbox.values'] = None\ndef f(x): return 7", False),
            ("def f(x): return 10 ** 5000", False),
            ("def f(x): return float('nan')", False),
            ("def f(x): return [0] * 10**5", False),
            ("def f(x):\n    a = []\n    a.append(a)\n    return a", False),
            ("g = lambda x: x + 1", False),
        ],
    )
    def test_a_table_of_programs_that_return(self, source: str, right: bool) -> None:
        reward = grade("program", source, PLUS_ONE)
        assert reward.value == right
        assert reward.outcome is not Outcome.GRADER_FAILED

    def test_every_form_of_assertion_is_decided_in_a_process_that_never_saw_the_program(self) -> None:
        gold = json.dumps(
            {
                "setup": "import math\ndef same(a, b): return a == b",
                "asserts": [
                    "assert set(f([1, 2])) == {1, 2}",
                    "assert math.isclose(f([1.5])[0], 1.5000000001, rel_tol=1e-6)",
                    "assert same(f([3]), [3]), 'message'",
                    "assert f([1, 2]) != f([2, 1])",
                    "assert f(['é\\n']) == ['é\\n']",
                    "assert not f([])",
                ],
                "reference": "def f(x): return x[::-1]",
            }
        )
        check_gold("program", gold)
        assert grade("program", "def f(x): return list(reversed(x))", gold).outcome is Outcome.CORRECT
        fake = "import math\nmath.isclose = same = set = lambda *a, **k: True\ndef f(x): return [7]"
        assert grade("program", fake, gold).outcome is Outcome.WRONG

    def test_a_reference_that_fails_is_an_error_of_the_data(self) -> None:
        gold = json.dumps({**json.loads(ADD), "reference": "print(3)"})
        with pytest.raises(GoldAnswerError, match="has a reference program that fails: test 2 of 2: printed"):
            check_gold("program", gold)

    def test_many_programs_are_graded_side_by_side_in_order(self) -> None:
        answers = [f"a, b = map(int, input().split())\nprint(a + b + {i % 2})" for i in range(40)]
        rewards = grade_many("program", [(answer, ADD, False) for answer in answers])
        assert [reward.value for reward in rewards] == [1.0, 0.0] * 20
