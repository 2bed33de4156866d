"""From a YAML file and `key=value` overrides to a checked `Recipe` or `Experiment`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from latentpad.recipe.errors import RecipeError, nearest, unknown
from latentpad.recipe.explain import explain
from latentpad.recipe.schema import Experiment, PublishedSection, Recipe

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: `3e-4` is a number, and a key written twice is an error."""


class _Dumper(yaml.SafeDumper):
    """What `_Loader` reads back as it was: text such as `3e-4` gets quotes."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
# Values that look like a date or a number and are none raise ValueError; very deep nesting raises RecursionError.
_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key is a list or a mapping", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is written twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecipeError: no such file, not YAML, or not a mapping.
    """
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise RecipeError(f"{path}: no such file; {nearest(str(path), siblings)}".rstrip("; "))
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except _UNREADABLE as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    return data


def apply_overrides(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """A copy of `data` with each dotted `key=value` set; the value is read as YAML.

    Raises:
        RecipeError: an override has no `=`, or leads through something that is not a mapping.
    """
    data = deepcopy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"argument {override!r}: expected key=value, such as training.steps=10")
        try:
            value = yaml.load(text, Loader=_Loader)
        except _UNREADABLE as error:
            raise RecipeError(f"argument {override!r}: the value is not readable as YAML") from error
        *parents, last = key.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise RecipeError(f"argument {override!r}: '{parent}' is not a section")
        node[last] = value
    return data


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Sections merged key by key, all else replaced; a component of another name replaces its section whole."""
    merged = deepcopy(under)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name"):
            merged[key] = merge(old, value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _validate(model: type[M], data: dict[str, Any], where: str) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain(error, model)}") from error


def is_experiment(data: dict[str, Any]) -> bool:
    """Whether this YAML describes an experiment rather than one run."""
    return "experiment" in data or "arms" in data


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """One run's recipe. Raises `RecipeError` in one line."""
    data = apply_overrides(read_yaml(path), overrides or [])
    if is_experiment(data):
        raise RecipeError(f"{path}: this is an experiment: run it with 'latentpad ablate {path}'")
    return _validate(Recipe, data, str(path))


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of an experiment, ready to run for any seed.

    `recipe` has `model.path` empty of meaning where `start_from` names the arm whose last checkpoint it starts from.
    """

    name: str
    description: str
    start_from: str | None
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment with every arm resolved, parents before children; `declared` is what its file says."""

    name: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    published: tuple[PublishedSection, ...] = ()
    headline: str | None = None
    declared: dict[str, Any] = field(default_factory=dict)


FROM_ARM = "<from arm>"
_SET_BY_EXPERIMENT = {
    "seed": "an experiment's seeds are in 'seeds'",
    "name": "an arm's name is its key in 'arms'",
}


def load_plan(path: Path, overrides: list[str] | None = None) -> Plan:
    """An experiment, every arm's recipe resolved and checked. Raises `RecipeError` in one line."""
    data = apply_overrides(read_yaml(path), overrides or [])
    if not is_experiment(data):
        raise RecipeError(f"{path}: this is one run's recipe: run it with 'latentpad train {path}'")
    experiment = _validate(Experiment, data, str(path))
    if len(set(experiment.seeds)) != len(experiment.seeds):
        raise RecipeError(f"{path}: seeds: a seed is listed twice: {experiment.seeds}")
    for where, keys in [("shared", experiment.shared), *((f"arms.{n}", a.keys) for n, a in experiment.arms.items())]:
        for key, fix in _SET_BY_EXPERIMENT.items():
            if key in keys:
                raise RecipeError(f"{path}: {where}.{key}: {fix}: remove it")
    arms = [_arm(path, experiment, name) for name in experiment.arms]
    return Plan(
        experiment.experiment,
        tuple(experiment.seeds),
        tuple(_in_order(path, arms)),
        tuple(experiment.published),
        experiment.headline,
        experiment.model_dump(by_alias=True, exclude_none=True),
    )


def _keys(path: Path, experiment: Experiment, name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    section = experiment.arms[name]
    if section.like is None:
        return merge(experiment.shared, section.keys)
    where = f"{path}: arms.{name}.like"
    if section.like not in experiment.arms:
        raise RecipeError(f"{where}: {unknown('arm', section.like, experiment.arms)}")
    if section.like in seen:
        raise RecipeError(f"{where}: arms are like each other in a circle: {' -> '.join((*seen, section.like))}")
    return merge(_keys(path, experiment, section.like, (*seen, section.like)), section.keys)


def _parent(experiment: Experiment, name: str) -> str | None:
    section = experiment.arms[name]
    if section.start_from is not None or section.like is None:
        return section.start_from
    return _parent(experiment, section.like)


def _arm(path: Path, experiment: Experiment, name: str) -> Arm:
    keys = _keys(path, experiment, name, (name,))
    parent = _parent(experiment, name)
    if parent is not None:
        if parent not in experiment.arms:
            raise RecipeError(f"{path}: arms.{name}.from: {unknown('arm', parent, experiment.arms)}")
        keys = merge(keys, {"model": {"path": FROM_ARM}})
    recipe = _validate(Recipe, merge({"name": name}, keys), f"{path}: arms.{name}")
    return Arm(name, experiment.arms[name].description, parent, recipe)


def _in_order(path: Path, arms: list[Arm]) -> list[Arm]:
    done: list[Arm] = []
    waiting = list(arms)
    while waiting:
        ready = [arm for arm in waiting if arm.start_from is None or arm.start_from in {d.name for d in done}]
        if not ready:
            raise RecipeError(f"{path}: arms start from each other in a circle: {', '.join(a.name for a in waiting)}")
        done += ready
        waiting = [arm for arm in waiting if arm not in ready]
    return done


def with_run(recipe: Recipe, *, seed: int, path: str | None = None) -> Recipe:
    """The same recipe for another seed, and starting from a checkpoint if `path` is given."""
    data = recipe.model_dump(exclude_none=True)
    data["seed"] = seed
    if path is not None:
        data["model"]["path"] = path
    return Recipe.model_validate(data)


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return dump_yaml(recipe.model_dump(exclude_none=True))


def dump_yaml(data: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back as it was."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def content_key(recipe: Recipe, parent_key: str = "") -> str:
    """What decides a run's result: the recipe, and the key of what it starts from in place of the path to it.

    The sandbox is the machine's affair and decides nothing; nor does where rollouts are sampled, only by what.
    """
    data = recipe.model_dump(exclude_none=True, exclude={"sandbox": True, "rollout": {"ray"}})
    data["rollout"]["engine"] = recipe.rollout.samples_with
    if recipe.rollout.max_staleness == 0:
        del data["rollout"]["max_staleness"]
    if parent_key:
        data["model"]["path"] = parent_key
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
