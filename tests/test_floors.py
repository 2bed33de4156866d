"""An import points to its own floor or a lower one, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentpad
import reward

FLOORS = {
    "reward": 0,
    "latentpad": 0,  # `__version__` alone
    "latentpad.types": 1,
    "latentpad.recipe": 1,
    "latentpad.launch": 1,
    "latentpad.seeding": 1,
    "latentpad.progress": 1,
    "latentpad.tasks": 2,
    "latentpad.formats": 2,
    "latentpad.models": 3,
    "latentpad.algorithms": 3,
    "latentpad.rollout": 4,
    "latentpad.training": 4,
    "latentpad.evaluation": 5,
    "latentpad.preflight": 5,
    "latentpad.doctor": 5,
    "latentpad.experiments": 6,
    "latentpad.arguments": 6,
    "latentpad.cli": 7,
    "latentpad.__main__": 8,
}
FILES = sorted(file for package in (latentpad, reward) for file in Path(package.__file__ or "").parent.rglob("*.py"))
ROOT = Path(latentpad.__file__).parents[1]


def room_of(module: str) -> str:
    """`latentpad.training.rl` is in `latentpad.training`; `reward.grade` in `reward`."""
    parts = module.split(".")
    return parts[0] if parts[0] != "latentpad" else ".".join(parts[:2])


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(source: str) -> set[str]:
    """Everything of ours that is imported anywhere in the file, inside functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = f"{'.' * node.level}{node.module or ''}"
            named = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name for name in named if name in FLOORS} or {base}
    return {name for name in found if name.partition(".")[0] in ("latentpad", "reward", "")}


def too_high(module: str, source: str) -> list[str]:
    return sorted(name for name in imports_of(source) if FLOORS[room_of(name)] > FLOORS[room_of(module)])


def test_every_module_has_a_floor() -> None:
    assert len(FILES) >= 50
    assert {room_of(module_of(file)) for file in FILES} == set(FLOORS)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_to_the_same_floor_or_a_lower_one(file: Path) -> None:
    assert too_high(module_of(file), file.read_text(encoding="utf-8")) == []


def test_most_files_import_something_of_ours() -> None:
    assert sum(bool(imports_of(file.read_text(encoding="utf-8"))) for file in FILES) >= 30


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from latentpad.training.rl import RLTrainer", ["latentpad.training.rl"]),
        ("def f():\n    import latentpad.cli", ["latentpad.cli"]),
        ("from latentpad import experiments", ["latentpad.experiments"]),
        ("if TYPE_CHECKING:\n    from latentpad.rollout import Request", ["latentpad.rollout"]),
        ("from latentpad.models.policy import Policy\nfrom reward import grade\nimport torch", []),
        ("from latentpad import __version__", []),
    ],
)
def test_an_import_from_above_is_seen_wherever_it_stands(source: str, found: list[str]) -> None:
    assert too_high("latentpad.models.policy", source) == found


def test_no_import_is_relative() -> None:
    assert [module_of(f) for f in FILES if any(n.startswith(".") for n in imports_of(f.read_text()))] == []


def test_what_must_start_fast_imports_nothing_heavy() -> None:
    rooms = {"reward", *(f"latentpad.{name}" for name in ("recipe", "tasks", "formats", "preflight", "cli"))}
    light = [module_of(file) for file in FILES if room_of(module_of(file)) in rooms]
    code = (
        "import sys\nfrom importlib import import_module\n"
        "for name in sys.argv[1:]: import_module(name)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'trl', 'ray', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, *light], capture_output=True, text=True, check=True)
    assert len(light) >= 14
    assert result.stdout.strip() == "[]"
