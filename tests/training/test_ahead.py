"""Sampling ahead: how old a rollout is, is fixed by the recipe; killed and resumed runs end the same, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latentpad.preflight import check_recipe
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.load import content_key, dump, load_recipe
from latentpad.recipe.schema import Recipe
from latentpad.training.collect import Collector
from latentpad.types import Episode
from tests import tiny
from tests.training import runs, worker


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def finished(base: Path, folder: Path, **changes: Any) -> Path:
    recipe = runs.write_rl(base, folder, **changes)
    assert worker.finish(worker.start(recipe, folder / "run")) == 0
    return folder / "run"


def spy_on_versions(file: Path) -> None:
    """Write down the version of the policy that each step's rollouts are from."""
    graded = Collector.episodes

    def told(self: Collector, *args: Any, **kwargs: Any) -> list[Episode]:
        episodes = graded(self, *args, **kwargs)
        with file.open("a") as stream:
            stream.write(" ".join(sorted({str(e.rollout.policy_version) for e in episodes})) + "\n")
        return episodes

    Collector.episodes = told  # type: ignore[method-assign]


class Spy:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> None:
        spy_on_versions(self.file)


@pytest.mark.parametrize(
    ("staleness", "versions"), [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 0, 1, 2, 3, 4]), (3, [0] * 4 + [1, 2])]
)
def test_every_step_is_sampled_by_the_policy_of_so_many_steps_before(
    base: Path, tmp_path: Path, staleness: int, versions: list[int]
) -> None:
    recipe = runs.write_rl(base, tmp_path, rollout={"max_staleness": staleness}, training={"steps": 6})
    assert worker.finish(worker.start(recipe, tmp_path / "run", Spy(tmp_path / "versions"))) == 0
    assert [int(line) for line in (tmp_path / "versions").read_text().split()] == versions
    records = runs.metrics(tmp_path / "run")
    assert ("importance_effective_samples" in records[0]) == (staleness > 0)
    if staleness:
        # The policy has moved on since its rollouts were sampled, in every step but the first.
        assert records[0]["mismatch_kl"] < 1e-9
        assert all(record["mismatch_kl"] > 1e-6 for record in records[1:] if record["grad_norm"] > 0)


def test_without_staleness_nothing_changes(base: Path, tmp_path: Path) -> None:
    plain, zero = finished(base, tmp_path / "a"), finished(base, tmp_path / "b", rollout={"max_staleness": 0})
    runs.assert_same_run(zero, plain, steps=8)


@pytest.mark.parametrize("case", ["truncated", "masked", "ladder", "ppo", "lora"])
def test_killed_and_resumed_it_ends_the_same(base: Path, tmp_path: Path, case: str) -> None:
    changes: dict[str, Any] = {"rollout": {"max_staleness": 2, "correction_cap": 1.05}}
    if case == "masked":
        changes["rollout"]["correction"] = "masked"
    if case == "ladder":
        ladder = {"rungs": ["digits=1", "digits=2"], "promote_at": 0.05, "window": 20}
        changes |= {"rl": {"ladder": ladder}, "task": {"name": "addition", "digits": [1, 2]}}
    if case == "ppo":
        changes["algorithm"] = {"name": "ppo"}
    if case == "lora":
        changes["model"] = {"path": str(base), "lora": {"rank": 2, "alpha": 4}}
    whole = finished(base, tmp_path / "whole", **changes)
    recipe = runs.write_rl(base, tmp_path / "killed", **changes)
    for step in (1, 3, 4, 6):
        child = worker.start(recipe, tmp_path / "killed" / "run")
        worker.signal_at(child, tmp_path / "killed" / "run", step, after=0.01)
        worker.finish(child)
    assert worker.finish(worker.start(recipe, tmp_path / "killed" / "run")) == 0
    runs.assert_same_run(tmp_path / "killed" / "run", whole, steps=8)
    if case in ("truncated", "masked"):
        assert any(record["corrected_tokens"] > 0 for record in runs.metrics(whole))
    if case == "ladder":
        assert runs.metrics(whole)[-1]["frontier"] == 1


def recipe_of(base: Path, folder: Path, **changes: Any) -> Recipe:
    return load_recipe(runs.write_rl(base, folder, **changes))


def test_where_rollouts_are_sampled_decides_nothing_and_with_what_does(base: Path, tmp_path: Path) -> None:
    plain = recipe_of(base, tmp_path)
    ray = {"workers": 7, "cpus": 2, "address": "10.0.0.1:6379", "rewards": "tasks"}
    same = [{"engine": "ray"}, {"engine": "ray", "ray": ray}, {"max_staleness": 0}]
    other = [
        {"engine": "vllm"},
        {"engine": "ray", "ray": {"runs": "vllm"}},
        {"max_staleness": 1},
        {"correction": "masked"},
    ]
    keys = [content_key(recipe_of(base, tmp_path, rollout=rollout)) for rollout in [{}, *same, *other]]
    assert set(keys[: 1 + len(same)]) == {content_key(plain)}
    assert len(set(keys)) == 4 + 1 - 1
    assert keys[len(same) + 1] == keys[len(same) + 2]  # vLLM here, or in workers


def test_stale_rollouts_are_corrected_whatever_the_recipe_leaves_out(base: Path, tmp_path: Path) -> None:
    rollout = recipe_of(base, tmp_path, rollout={"max_staleness": 1}).rollout
    assert (rollout.correction, rollout.correction_cap) == ("truncated", 2.0)
    assert load_recipe(tmp_path / "recipe.yaml").rollout == rollout
    assert "correction" in dump(load_recipe(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        ({"max_staleness": -1}, "rollout.max_staleness: got -1"),
        ({"correction_cap": 2.0}, "'correction_cap' needs 'correction: truncated' or 'masked'"),
        ({"correction": "masked", "correction_cap": 1.0}, "rollout.correction_cap: got 1.0"),
        ({"ray": {"workers": 2}}, "section 'ray' is not used by engine 'local'"),
        ({"engine": "ray", "ray": {"address": "somewhere"}}, "'address' 'somewhere': expected auto, or host:port"),
        ({"engine": "ray", "ray": {"wrkers": 2}}, "unknown key 'wrkers'; did you mean 'workers'?"),
        ({"top_p": 0.9}, "'top_p' samples from another distribution than the learner's"),
        ({"min_p": 0.1, "engine": "vllm"}, "'min_p' samples from another distribution than the learner's"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(tmp_path: Path, rollout: dict[str, Any], said: str) -> None:
    data = tiny.recipe().model_dump(exclude_none=True)
    import yaml

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data | {"rollout": data["rollout"] | rollout}))
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    assert said in str(error.value)


def test_a_step_that_is_sampled_anew_cannot_be_sampled_ahead(base: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"rollout": {"max_staleness": 1}, "algorithm": {"name": "dapo"}}
    with pytest.raises(RecipeError, match=r"cannot be sampled again: set it to 0, or algorithm\.sampling_rounds to 1"):
        check_recipe(recipe_of(base, tmp_path, **changes))


def test_pretraining_samples_nothing_and_says_so(tmp_path: Path) -> None:
    import yaml

    data = tiny.recipe("pretrain").model_dump(exclude_none=True)
    data["rollout"]["engine"] = "ray"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match=r"'rollout\.engine' is not used by method 'pretrain'"):
        load_recipe(tmp_path / "recipe.yaml")
