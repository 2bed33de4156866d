"""YAML as people mean it, `key=value` overrides, and how sections are laid over one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import apply_overrides, merge, read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Written = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 0.0003),
        ("3E-4", 0.0003),
        ("-1e3", -1000.0),
        ("2.5e3", 2500.0),
        ("1e5", 100000.0),
        ("0.1", 0.1),
        ("12", 12),
        ("true", True),
        ("null", None),
        ("'3e-4'", "3e-4"),
        ("e4", "e4"),
        ("1e", "1e"),
    ],
)
def test_values_are_what_they_look_like(written: Written, text: str, value: object) -> None:
    read = read_yaml(written(f"key: {text}"))["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {a: 1, a: 1}", "x:\n  - {b: 1}\n  - {a: 1, a: 2}"])
def test_a_key_written_twice_is_an_error_that_says_where(written: Written, text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml: .*key 'a' is written twice .*line [123], column"):
        read_yaml(written(text))


def test_an_anchor_is_repeated_where_it_is_named(written: Written) -> None:
    assert read_yaml(written("a: &x {b: 1}\nc: *x")) == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_merge_key_fills_in_what_is_not_written(written: Written) -> None:
    text = "a: &x {b: 1, c: 2}\nd: &y {c: 9, e: 5}\nf:\n  <<: [*x, *y]\n  b: 3"
    assert read_yaml(written(text))["f"] == {"b": 3, "c": 2, "e": 5}


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "a: 2024-99-99",
        "a: 0x_",
        "? [1]\n: 2",
        "? {a: 1}\n: 2",
        "a: &a {b: *a}",
        "{<<: 3}",
        "a: *nowhere",
        "a: !!python/object:os.system {}",
        "a: \x00",
        "a:\tb: c",
        "[" * 1000,
    ],
)
def test_what_is_not_yaml_is_refused_in_one_line(written: Written, text: str) -> None:
    with pytest.raises(RecipeError, match=r"^\S+recipe.yaml: not readable as YAML: ") as error:
        read_yaml(written(text))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(RecipeError, match="not readable as YAML"):
        read_yaml(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(("text", "got"), [("", "NoneType"), ("- 1", "list"), ("word", "str")])
def test_a_recipe_is_a_mapping(written: Written, text: str, got: str) -> None:
    with pytest.raises(RecipeError, match=f"expected a mapping of keys, got {got}$"):
        read_yaml(written(text))


def test_a_missing_file_is_named_with_the_nearest_one(written: Written, tmp_path: Path) -> None:
    there = written("a: 1", "demo.yaml")
    with pytest.raises(RecipeError) as error:
        read_yaml(tmp_path / "dmeo.yaml")
    assert str(error.value) == f"{tmp_path / 'dmeo.yaml'}: no such file; did you mean '{there}'?"


def test_a_missing_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "demo.yaml"
    with pytest.raises(RecipeError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path}: no such file"


@pytest.mark.parametrize(
    ("override", "data"),
    [
        ("a.b=2", {"a": {"b": 2}}),
        ("a.c=3e-4", {"a": {"b": 1, "c": 0.0003}}),
        ("d.e.f=x", {"a": {"b": 1}, "d": {"e": {"f": "x"}}}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={b: 3}", {"a": {"b": 3}}),
        ("a.b=", {"a": {"b": None}}),
        ("a.b=x=y", {"a": {"b": "x=y"}}),
    ],
)
def test_an_override_sets_one_key(override: str, data: dict[str, Any]) -> None:
    before = {"a": {"b": 1}}
    assert apply_overrides(before, [override]) == data
    assert before == {"a": {"b": 1}}


def test_the_last_override_of_a_key_holds() -> None:
    assert apply_overrides({}, ["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "argument 'steps': expected key=value, such as training.steps=10"),
        ("=3", "argument '=3': expected key=value, such as training.steps=10"),
        ("a.b.c=3", "argument 'a.b.c=3': 'b' is not a section"),
        ("a.b=[", "argument 'a.b=[': the value is not readable as YAML"),
        ("a.b={c: 1, c: 2}", "argument 'a.b={c: 1, c: 2}': the value is not readable as YAML"),
        ("a.b=2024-99-99", "argument 'a.b=2024-99-99': the value is not readable as YAML"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        apply_overrides({"a": {"b": 1}}, [override])
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("under", "over", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {}, {"a": {"b": 1}}),
        ({"a": {"name": "x", "b": 1}}, {"a": {"name": "x", "c": 2}}, {"a": {"name": "x", "b": 1, "c": 2}}),
        ({"a": {"name": "x", "b": 1}}, {"a": {"c": 2}}, {"a": {"name": "x", "b": 1, "c": 2}}),
        ({"a": {"name": "x", "b": 1}}, {"a": {"name": "y"}}, {"a": {"name": "y"}}),
    ],
)
def test_sections_merge_by_key_and_another_component_replaces_its_section(
    under: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert merge(under, over) == merged


def test_what_is_merged_shares_nothing_with_what_it_came_from() -> None:
    under, over = {"a": {"b": [1]}}, {"c": {"d": [2]}}
    merged = merge(under, over)
    merged["a"]["b"].append(9)
    merged["c"]["d"].append(9)
    assert (under, over) == ({"a": {"b": [1]}}, {"c": {"d": [2]}})
