"""An assertion taken apart: which calls are the program's, and what is left to be true outside."""

from __future__ import annotations

import pytest

from reward.asserts import BadAssertion, names_bound_by, parse_assertion

KNOWN = frozenset({"math", "helper"})


@pytest.mark.parametrize(
    ("text", "call", "check", "plain"),
    [
        ("assert f(1) == 2", "(f(1),)", "assert value_0 == 2", True),
        ("assert 2 == f(1), 'message'", "(f(1),)", "assert 2 == value_0", True),
        (
            "assert f(1) == (1, [2.5, None], {'a': -1})",
            "(f(1),)",
            "assert value_0 == (1, [2.5, None], {'a': -1})",
            True,
        ),
        ("assert f(1) == 1 + 1", "(f(1),)", "assert value_0 == 1 + 1", False),
        ("assert f(1) == float('inf')", "(f(1),)", "assert value_0 == float('inf')", False),
        ("assert f(1) is True", "(f(1),)", "assert value_0 is True", False),
        ("assert f(1) != 2", "(f(1),)", "assert value_0 != 2", False),
        ("assert f(1) == 2 == 2", "(f(1),)", "assert value_0 == 2 == 2", False),
        ("assert not f(1)", "(f(1),)", "assert not value_0", False),
        ("assert f(1)", "(f(1),)", "assert value_0", False),
        ("assert set(f(1)) == {1}", "(f(1),)", "assert set(value_0) == {1}", False),
        ("assert f(1)[0] == 1", "(f(1),)", "assert value_0[0] == 1", False),
        ("assert f(1).strip() == 'a'", "(f(1),)", "assert value_0.strip() == 'a'", False),
        ("assert f(1) == g(2)", "(f(1), g(2),)", "assert value_0 == value_1", False),
        ("assert f(g(1)) == 2", "(f(g(1)),)", "assert value_0 == 2", True),
        ("assert math.isclose(f(1), 0.1)", "(f(1),)", "assert math.isclose(value_0, 0.1)", False),
        ("assert f(math.pi, helper(2)) == 1", "(f(math.pi, helper(2)),)", "assert value_0 == 1", True),
        ("assert f(lambda x: x + 1) == 1", "(f(lambda x: x + 1),)", "assert value_0 == 1", True),
        ("assert f([g for g in (1, 2)]) == 1", "(f([g for g in (1, 2)]),)", "assert value_0 == 1", True),
        ("assert Solution().f(1) == 2", "(Solution().f(1),)", "assert value_0 == 2", True),
        ("assert Solution().f(1).startswith('a')", "(Solution().f(1),)", "assert value_0.startswith('a')", False),
        ("assert f(1).g(2) == 3", "(f(1),)", "assert value_0.g(2) == 3", False),
        ("assert f('\\d') == 1", "(f('\\\\d'),)", "assert value_0 == 1", True),
    ],
)
def test_the_programs_calls_are_cut_out(text: str, call: str, check: str, plain: bool) -> None:
    taken = parse_assertion(text, known=KNOWN)
    assert (taken.call, taken.check, taken.plain) == (call, check, plain)


@pytest.mark.parametrize(
    "text",
    [
        *["", "f(1) == 2", "assert", "assert 1 == 1", "assert sorted([1]) == [1]", "assert math.sqrt(4) == 2"],
        *["assert helper(1) == 2", "assert f == 2", "x = 1\nassert f(x) == 1", "assert f(1) == 1; assert f(2) == 2"],
        *[
            "assert all(f(i) == i for i in range(3))",
            "assert [f(i) for i in (1, 2)] == [1, 2]",
            "assert (lambda: f(1))()",
        ],
        *[
            "assert (x := f(1)) == 1",
            "assert f(1 == 2",
            "assert f(\x00) == 1",
            "assert " + "(" * 300 + "f(1)" + ")" * 300,
        ],
    ],
)
def test_what_asks_nothing_of_the_program_or_cannot_be_taken_apart_is_refused(text: str) -> None:
    with pytest.raises(BadAssertion):
        parse_assertion(text, known=KNOWN)


def test_with_an_entry_only_that_name_is_the_programs() -> None:
    taken = parse_assertion("assert check(sum(2), 3)", known=frozenset(), entry="sum")
    assert (taken.call, taken.check) == ("(sum(2),)", "assert check(value_0, 3)")
    with pytest.raises(BadAssertion, match=r"calls f$"):
        parse_assertion("assert g(2) == 3", known=frozenset(), entry="f")


def test_a_setup_binds_what_it_imports_defines_and_assigns() -> None:
    setup = "import os.path\nimport math as m\nfrom a import b as c, d\nx, (y, *z) = 1, (2, 3)\n"
    setup += "def f():\n    inner = 1\nclass G: pass\nif 1:\n    h = 2\n"
    assert names_bound_by(setup) == {"os", "m", "c", "d", "x", "y", "z", "f", "G", "h"}
