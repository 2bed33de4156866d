"""The report on MBPP, and a part of the published rows where they are at hand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from latentpad.tasks.mbpp import Mbpp
from latentpad.tasks.mbpp_report import failing_solutions, main
from latentpad.tasks.mbpp_rows import call_and_value, read_mbpp
from tests.tasks.data import data_file
from tests.tasks.mbpp_rows import rows, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mbpp")
    write(folder / "mbpp.jsonl", rows())
    return folder


def test_the_report_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "mbpp.jsonl"), "--cache", str(folder / "cache")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["rows: 37, tests: 49", "own programs that pass their own tests (grader 'program'): 37 of 37"]
    assert "  49 of 49" in lines
    assert sum("of 12 (paper: 212 of 500)" in line for line in lines) == 2
    assert main([str(folder / "nothing.jsonl")]) == 2


class TestPublishedRows:
    """On a part of them: the report on all is `python -m latentpad.tasks.mbpp_report PATH`."""

    def test_all_rows_load_with_the_published_splits(self) -> None:
        found = list(read_mbpp(str(data_file("mbpp.jsonl")), None))
        splits = [row.split for row in found]
        counts = {split: splits.count(split) for split in ("train", "validation", "test", "prompt")}
        assert counts == {"train": 374, "validation": 90, "test": 500, "prompt": 10}
        assert sum(call_and_value(test) is not None for row in found for test in row.tests) == 2922

    def test_own_programs_pass_their_own_tests(self) -> None:
        found = list(read_mbpp(str(data_file("mbpp.jsonl")), None))
        odd = {40, 88, 123, 653, 902}  # return a Counter or defaultdict, which is no plain data; 123 is too slow
        chosen = [r for r in random.Random(0).sample(found, 40) if r.task_id not in odd]
        chosen += [r for r in found if r.task_id in (126, 367, 596, 927)]
        assert failing_solutions(chosen) == []
        assert len(chosen) >= 40

    def test_traces_are_made_and_read(self, tmp_path: Path) -> None:
        lines = data_file("mbpp.jsonl").read_text(encoding="utf-8").splitlines()
        path = tmp_path / "part.jsonl"
        path.write_text("\n".join(lines[10::30]) + "\n", encoding="utf-8")
        task = Mbpp(path=str(path), cache=str(tmp_path), step_bounds=())
        assert {i.trace.end for i in task.instances} <= {"ok", "too many characters"}
        problems = [p for split in ("train", "validation", "test") for p in task.distinct(split, "steps=1+", 10**4)]
        assert len(problems) > 50
        for problem in problems[::5]:
            assert task.read_scratchpad(problem, task.gold_scratchpad(problem)) == problem.answer
