"""The table of planted bugs cannot go stale unseen: every bug can still be planted, and the table lists these."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mutations.bugs import BUGS, CHECK, Bug

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| \*\*(.+?)\*\*: (.+) \| (.+) \| `(.+)` \| (.+) \|$", re.MULTILINE)


def test_there_are_many_each_with_a_name_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_has_one_place_and_something_that_catches_it(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text().count(bug.old) == 1
    assert bug.new != bug.old
    assert bug.caught_by
    for node in bug.caught_by:
        file, _, rest = node.partition("::")
        test = rest.split("::")[-1].partition("[")[0]
        if node != CHECK:
            holders = [ROOT / file, ROOT / "tests/rollout/contract.py"]
            assert any(f"def {test}(" in holder.read_text() for holder in holders), node


def test_the_table_lists_these_bugs_and_what_caught_each() -> None:
    rows = ROW.findall((ROOT / "tests/mutations/README.md").read_text())
    assert [row[:4] for row in rows] == [(bug.name, bug.what, bug.source, bug.file) for bug in BUGS]
    for bug, row in zip(BUGS, rows, strict=True):
        by = row[4].split("<br>")
        assert len(by) == any(name != CHECK for name in bug.caught_by) + (CHECK in bug.caught_by), bug.name
        for line in by:
            test = line.strip("`").partition("[")[0]
            assert line.startswith("check: ") or any(node.partition("[")[0] == test for node in bug.caught_by), bug.name
