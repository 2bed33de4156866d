"""What arms differ in: told in words, and refused where nobody said that they may."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from latentpad.experiments.finished import read_experiment
from latentpad.recipe.errors import RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from latentpad.experiments.finished import FinishedArm, FinishedRun

    Json = dict[str, Any]
    # Dotted key -> the values of the arm and of the baseline, None where one has none.
    Differences = dict[str, tuple[Any, Any]]

_NEVER = ("task", "format", "evaluation")
# What a run is called, where it ran, and what is measured beside the accuracy that is compared.
_NO_MATTER = ("name", "seed", "sandbox", "rollout.ray", "rollout.engine", "evaluation")
_ASKED = ("split", "problems", "beyond", "max_new_tokens")
_MACHINE = ("python", "system", "cpu", "gpu", "threads", "git_commit", "packages")
_START = "model.path"


def _covers(prefix: str, key: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def flat(data: Json, above: str = "") -> Json:
    """Nested mappings as dotted keys; an empty one is a key of its own.

    >>> flat({"a": {"b": 1, "c": [2]}, "d": {}})
    {'a.b': 1, 'a.c': [2], 'd': {}}
    """
    found: Json = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _settings(run: FinishedRun) -> Json:
    """All that decides a run's result but its seed, start and machine, and how it was evaluated."""
    keys = flat(run.recipe.model_dump(exclude_none=True))
    kept = {key: value for key, value in keys.items() if not any(_covers(prefix, key) for prefix in _NO_MATTER)}
    kept["rollout.engine"] = run.recipe.rollout.samples_with
    if _START in kept:
        kept[_START] = "another model"  # which one is compared by content, seed by seed
    return kept | {f"evaluation.{key}": run.evaluation[key] for key in _ASKED if key in run.evaluation}


def _machine(run: FinishedRun) -> Json:
    return flat({"environment": {key: run.environment.get(key) for key in _MACHINE}})


def _unlike(ours: Json, theirs: Json) -> Differences:
    keys = dict.fromkeys(chain(ours, theirs))
    return {key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)}


def differences(arm: FinishedArm, baseline: FinishedArm) -> Differences:
    """All in which an arm differs from the baseline: settings, `model.path` (the start), `environment`.

    Two starts are the same if they are the same step of runs with one content key, seed by seed, wherever they lie.

    Raises:
        RecipeError: the runs of one arm differ in their settings: they are no seeds of one thing.
    """
    for one in (arm, baseline):
        for run in one.runs.values():
            if mixed := _unlike(_settings(run), _settings(one.first)):
                raise RecipeError(f"{run.folder}: other than {one.first.folder} in {_listed(mixed)}: not one arm")
    found = _unlike(_settings(arm.first), _settings(baseline.first))
    found.pop(_START, None)
    for seed in sorted(arm.runs.keys() & baseline.runs.keys()):
        starts = (arm.runs[seed].start_name, baseline.runs[seed].start_name)
        if starts[0] != starts[1]:
            found.setdefault(_START, starts)
    for run in (*arm.runs.values(), *baseline.runs.values()):
        for key, values in _unlike(_machine(run), _machine(baseline.first)).items():
            found.setdefault(key, values)
    return found


def _declared(arms: Sequence[FinishedArm]) -> list[str]:
    """The keys that arms of one experiment set for themselves: its file declares that they differ in them."""
    folder = arms[0].experiment
    if folder is None or any(arm.experiment != folder for arm in arms):
        return []
    sections: Json = read_experiment(folder).get("arms", {})
    keys: list[str] = []
    starts = []
    for arm in arms:
        name: str | None = arm.name
        start = None
        seen: set[str | None] = set()
        while name in sections and name not in seen:
            seen.add(name)
            section = sections[name]
            own = {k: v for k, v in section.items() if k not in ("from", "like", "description")}
            keys += [k for k, v in own.items() if isinstance(v, dict) and "name" in v]  # a component, whole
            keys += flat(own)
            start = start or section.get("from")
            name = section.get("like")
        starts.append(start)
    return keys if len(set(starts)) == 1 else [*keys, _START]


def _is_declared(key: str, declared: Iterable[str], ours: Json, theirs: Json) -> bool:
    """Whether a declared key covers it, or lies in a section with it that one of the two lacks whole."""
    whole = _whole(key, ours, theirs)
    return any(_covers(known, key) or _covers(whole, known) for known in declared)


def _whole(key: str, ours: Json, theirs: Json) -> str:
    """The widest section around a key that one of the two lacks whole, else the key; `environment` as one."""
    parts = key.split(".")
    if parts[0] == "environment":
        return parts[0]
    for depth in range(1, len(parts)):
        section = ".".join(parts[:depth])
        if any(not any(_covers(section, k) for k in side) for side in (ours, theirs)):
            return section
    return key


def refuse_undeclared(arm: FinishedArm, baseline: FinishedArm, found: Differences, differ: Sequence[str]) -> None:
    """Refuse to compare arms that differ in what may not differ, or in what nobody declared.

    Args:
        arm, baseline: the two.
        found: their `differences`.
        differ: dotted keys that the user lets differ; each covers what is under it.

    Raises:
        RecipeError: names the keys, both values, and the fix.
    """
    pair = f"{arm.name} and {baseline.name}"
    if never := {key: v for key, v in found.items() if any(_covers(prefix, key) for prefix in _NEVER)}:
        raise RecipeError(
            f"{pair}: not comparable, differ in {_listed(never)}: evaluate both on the same problems in the same way"
        )
    ours, theirs = _settings(arm.first), _settings(baseline.first)
    declared = [*differ, *_declared([arm, baseline])]
    undeclared = {key: v for key, v in found.items() if not _is_declared(key, declared, ours, theirs)}
    if undeclared:
        named = {key: _whole(key, ours, theirs) for key in undeclared}
        fix = " ".join(f"--differ {section}" for section in dict.fromkeys(named.values()))
        listed: dict[str, str] = {}
        for key, values in undeclared.items():
            if named[key] in (key, "environment"):
                listed[key] = _listed({key: values})
            else:  # a section that only one of them has
                has = arm if values[0] is not None else baseline
                listed[named[key]] = f"{named[key]} (only {has.name})"
        told = ", ".join(listed.values())
        raise RecipeError(f"{pair} differ in what nobody declared: {told}; if that is meant: {fix}")


def refuse_idle(differ: Sequence[str], found: Iterable[Differences]) -> None:
    """Refuse a `--differ` that no arm needs, such as a misspelt one, or one that may never differ."""
    keys = sorted({key for differences in found for key in differences})
    for given in differ:
        if any(_covers(prefix, given) for prefix in _NEVER):
            raise RecipeError(f"--differ {given}: arms that differ in it answer other problems: compare them apart")
        if not any(_covers(given, key) for key in keys):
            differing = ", ".join(keys) or "nothing"
            raise RecipeError(
                f"--differ {given}: no arm differs in it; {nearest(given, keys)}they differ in {differing}"
            )


def _listed(found: Differences) -> str:
    return ", ".join(f"{key} ({_shown(ours)} and {_shown(theirs)})" for key, (ours, theirs) in found.items())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def in_words(arm: FinishedArm, baseline: FinishedArm, found: Differences) -> str:
    """The differences in one line: `grpo against direct: method rl instead of supervised; ...`."""
    ours, theirs = _settings(arm.first), _settings(baseline.first)
    parts: dict[str, str] = {}
    for key, (mine, other) in sorted(found.items(), key=lambda item: item[0] != "method"):
        section = key if _covers("environment", key) else _whole(key, ours, theirs)
        if key == _START:
            parts[key] = f"starts from {_start(arm)} instead of {_start(baseline)}"
        elif section != key and any(_covers(section, k) for k in ours):
            parts[section] = f"{section} {_section(section, ours)}"
        elif section != key:
            parts[section] = f"no {section} section"
        elif other is None:
            parts[key] = f"{key} {_shown(mine)}"
        elif mine is None:
            parts[key] = f"no {key} ({_shown(other)})"
        else:
            parts[key] = f"{key.removesuffix('.name')} {_shown(mine)} instead of {_shown(other)}"
    return f"{arm.name} against {baseline.name}: {'; '.join(parts.values()) or 'the same recipe'}"


def _section(section: str, settings: Json) -> str:
    """All of a section: `grpo` for a component, else its keys and values."""
    keys = {key[len(section) + 1 :]: value for key, value in settings.items() if _covers(section, key)}
    name = keys.pop("name", None)
    rest = ", ".join(f"{key} {_shown(value)}" for key, value in keys.items())
    return rest if name is None else f"{name} ({rest})" if rest else str(name)


def _start(arm: FinishedArm) -> str:
    start = arm.first.start
    if start is None:
        return "scratch"
    if isinstance(start, str):
        return start
    beside = start.folder.resolve().parents[1] == arm.first.folder.resolve().parents[1]
    return start.arm if beside else f"{start.arm} ({start.folder})"
