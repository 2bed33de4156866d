"""Every example in a docstring runs and is true."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import latentpad
import reward

FILES = {
    ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for root in (Path(latentpad.__file__).parent, Path(reward.__file__).parent)
    for file in sorted(root.rglob("*.py"))
}
WITH_EXAMPLES = sorted(name for name, file in FILES.items() if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    failed, attempted = doctest.testmod(import_module(name))
    assert attempted > 0
    assert failed == 0


def test_examples_were_found() -> None:
    assert len(FILES) >= 50
    assert {"reward.extract", "reward.grade", "reward.integer", "latentpad.tasks.addition"} <= set(WITH_EXAMPLES)
    assert len(WITH_EXAMPLES) >= 8
