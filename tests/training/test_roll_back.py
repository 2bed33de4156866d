"""A run in trouble takes up its last good checkpoint and goes on in smaller steps, as its recipe asks for it."""

from __future__ import annotations

import math
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.cli import main
from latentpad.models.policy import Policy
from latentpad.recipe.errors import Diverged, RecipeError
from latentpad.training.checkpoint import STATE, is_good, steps_in, verify
from latentpad.training.interrupt import Stop
from latentpad.training.learner import Learner
from latentpad.training.optimizer import Optimizer
from latentpad.training.run_folder import RunFolder
from latentpad.training.state import TrainingState
from tests import tiny
from tests.training import runs, worker
from tests.training.runs import Trouble, alarms, assert_equal, assert_same_run, flat, metrics, saved

if TYPE_CHECKING:
    from collections.abc import Sequence

# The state by itself

RECIPE = tiny.recipe("rl", training={"steps": 100, "checkpoint_every": 2, "learning_rate": 0.01})


class Ticks:
    """A part that counts steps."""

    def __init__(self) -> None:
        self.count = 0

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


@dataclass
class Opened:
    """A run whose gradients are drawn by step number."""

    run: RunFolder
    policy: Policy
    optimizer: Optimizer
    ticks: Ticks
    state: TrainingState

    def gradient(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for parameter in self.policy.trainable().values():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = drawn if parameter.grad is None else parameter.grad + drawn

    def take(self, steps: int, *, good: bool = True) -> None:
        for _ in range(steps):
            self.gradient(self.state.step)
            norm, rate = self.optimizer.step(self.state.step)
            self.ticks.count += 1
            self.state.advance({"grad_norm": norm, "learning_rate": rate}, {}, Stop(), good=good)

    def now(self) -> dict[str, Any]:
        """The weights, the optimizer and the parts, leaf by leaf."""
        weights = {name: p.detach().clone() for name, p in self.policy.trainable().items()}
        return flat({"weights": weights, "optimizer": self.optimizer.state(), "parts": {"ticks": self.ticks.state()}})


def opened(path: Path, *, keep: int = 2) -> Opened:
    run, policy, ticks = RunFolder(path, RECIPE, "key"), tiny.policy(), Ticks()
    optimizer = Optimizer(policy, RECIPE.training)
    state = TrainingState(run, policy, optimizer, RECIPE.training, {"ticks": ticks}, keep=keep)
    state.begin()
    return Opened(run, policy, optimizer, ticks, state)


def in_trouble(path: Path) -> Opened:
    """Good checkpoints at 2 and 4, a bad one at 6, and a step more."""
    made = opened(path)
    made.take(4)
    made.take(3, good=False)
    assert sorted(steps_in(made.run.checkpoints)) == [2, 4, 6]
    return made


def at(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds of what `Opened.now` tells."""
    kept = ("/weights/", "/optimizer/", "/parts/")
    return {leaf: value for leaf, value in saved(checkpoint).items() if leaf.startswith(kept)}


def but_rates(leaves: dict[str, Any]) -> dict[str, Any]:
    return {leaf: value for leaf, value in leaves.items() if not leaf.endswith("/lr")}


def test_rolling_back_restores_weights_optimizer_and_parts_to_the_bit(tmp_path: Path) -> None:
    made = in_trouble(tmp_path)
    good = made.run.checkpoints / "4"
    assert made.ticks.count == 7
    made.state.roll_back(0.5, "trouble")
    assert (made.state.step, made.state.roll_backs, made.ticks.count) == (4, 1, 4)
    assert len(made.now()) > 20
    assert_equal(made.now(), at(good), "rolled back")
    assert [is_good(made.run.checkpoints / str(step)) for step in (2, 4)] == [True, True]


def test_rolling_back_makes_the_steps_smaller_every_time_and_not_twice_to_the_same_checkpoint(tmp_path: Path) -> None:
    made = in_trouble(tmp_path)
    assert made.optimizer.learning_rate(4) == 0.01
    made.state.roll_back(0.5, "trouble")
    assert made.optimizer.learning_rate(4) == 0.005
    made.state.roll_back(0.5, "again")
    assert (made.optimizer.learning_rate(4), made.state.roll_backs) == (0.0025, 2)
    made.take(2)
    # the first went to step 4, the second, with nothing good since, to the one before it: step 2
    assert [record["learning_rate"] for record in metrics(tmp_path)] == [0.01] * 2 + [0.0025] * 2
    again = opened(tmp_path)
    assert (again.optimizer.learning_rate(6), again.state.roll_backs) == (0.0025, 2)


def test_rolling_back_drops_what_came_after_and_keeps_the_alarms(tmp_path: Path) -> None:
    made = in_trouble(tmp_path)
    assert made.run.alarm(7, "reward_collapse", "so low", "roll_back")
    made.state.roll_back(0.5, "trouble")
    assert sorted(f.name for f in made.run.checkpoints.iterdir()) == ["2", "4"]
    assert [record["step"] for record in metrics(tmp_path)] == [1, 2, 3, 4]
    assert [alarm["step"] for alarm in alarms(tmp_path)] == [7]
    made.take(2)
    assert [record["step"] for record in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert sorted(steps_in(made.run.checkpoints)) == [4, 6]


def test_before_the_first_step_there_is_something_to_roll_back_to(tmp_path: Path) -> None:
    made = opened(tmp_path)
    first = at(made.run.checkpoints / "0")
    made.take(1)
    made.state.roll_back(0.5, "trouble")
    assert made.state.step == 0
    assert metrics(tmp_path) == []
    assert_equal(but_rates(made.now()), but_rates(first), "rolled back")


def test_gradients_of_the_step_that_failed_are_forgotten(tmp_path: Path) -> None:
    made, other = in_trouble(tmp_path / "one"), in_trouble(tmp_path / "other")
    for parameter in made.policy.trainable().values():
        parameter.grad = torch.full_like(parameter, math.nan)
    for run in (made, other):
        run.state.roll_back(0.5, "trouble")
        run.take(2)
    assert_equal(made.now(), other.now(), "after the roll back")


def test_without_a_good_checkpoint_the_trouble_ends_the_run(tmp_path: Path) -> None:
    made = opened(tmp_path, keep=1)
    made.take(2, good=False)
    with pytest.raises(Diverged, match="trouble; no checkpoint is from before the trouble"):
        made.state.roll_back(0.5, "trouble")


def test_a_torn_checkpoint_is_not_rolled_back_to(tmp_path: Path) -> None:
    made = in_trouble(tmp_path)
    with (made.run.checkpoints / "4" / STATE).open("r+b") as file:
        file.write(b"torn")
    with pytest.raises(RecipeError, match="is not what was written"):
        made.state.roll_back(0.5, "trouble")


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_killed_at_any_moment_of_a_roll_back_the_run_goes_on_and_rolls_back_to_the_same_bits(tmp_path: Path) -> None:
    made = in_trouble(tmp_path / "run")
    made.run.close()
    folder, kept = made.run.path, tmp_path / "kept"
    shutil.copytree(folder, kept)
    found = []
    for countdown in range(1, 100):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        died = worker.dies_at(countdown, lambda: made.state.roll_back(0.5, "trouble"))
        again = opened(folder)
        found.append(again.state.step)
        assert again.state.step in (4, 6)
        assert [record["step"] for record in metrics(folder)] == list(range(1, again.state.step + 1))
        assert not worker.writing(folder)
        again.take(7 - again.state.step, good=False)
        again.state.roll_back(0.5, "trouble")
        assert_equal(again.now(), at(kept / "checkpoints" / "4"), "rolled back")
        assert sorted(f.name for f in again.run.checkpoints.iterdir()) == ["2", "4"]
        again.run.close()
        if not died:
            break
    assert not died
    assert len(found) > 5
    assert set(found) == {4, 6}


# In the loop

STEPS = 8


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.base(tmp_path_factory.getbasetemp())


def write_recipe(base: Path, folder: Path, *, steps: int = STEPS, **health: Any) -> Path:
    return runs.write_rl(base, folder, training={"steps": steps, "checkpoint_every": 2}, health={"window": 2, **health})


@dataclass(frozen=True)
class Ended:
    code: int
    told: list[str]
    run: Path

    @property
    def left(self) -> dict[str, Any]:
        """The newest checkpoint's state, leaf by leaf."""
        return saved(self.run / "checkpoints" / str(max(steps_in(self.run / "checkpoints"))))


def train(recipe: Path, capsys: pytest.CaptureFixture[str]) -> Ended:
    capsys.readouterr()
    code = main(["train", str(recipe), "--out", str(recipe.parent / "run")])
    return Ended(code, capsys.readouterr().err.splitlines(), recipe.parent / "run")


def trouble(monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    monkeypatch.setattr(Learner, "step", Trouble(**options).learner_step(Learner.step))


def short(run: Path) -> list[tuple[int, str, str]]:
    return [(alarm["step"], alarm["alarm"], alarm["action"]) for alarm in alarms(run)]


def test_warned_of_a_run_in_trouble_goes_on(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble(monkeypatch, step=6)
    ended = train(write_recipe(base, tmp_path, action="warn"), capsys)
    assert ended.code == 0
    assert "tiny-rl: alarm not_finite, step 6: loss is nan [warn]" in ended.told
    assert short(ended.run) == [(6, "not_finite", "warn")]
    assert [record["step"] for record in metrics(ended.run)] == list(range(1, STEPS + 1))
    assert max(steps_in(ended.run / "checkpoints")) == STEPS


def test_a_run_in_trouble_stops_in_one_line_and_keeps_its_last_checkpoint(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble(monkeypatch, step=6)
    recipe = write_recipe(base, tmp_path, action="stop")
    for _ in range(2):  # started again it comes to the same end
        ended = train(recipe, capsys)
        assert ended.code == 2
        assert ended.told[-1] == "latentpad: step 6: loss is nan (health.action is stop)"
        assert short(ended.run) == [(6, "not_finite", "stop")]
        assert steps_in(ended.run / "checkpoints") == [4]
        verify(ended.run / "checkpoints" / "4")
    assert not (ended.run / "done.json").exists()


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_a_gradient_that_is_not_finite_ends_a_run_that_may_not_roll_back(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    trouble(monkeypatch, step=6, raises=True)
    ended = train(write_recipe(base, tmp_path, action=action), capsys)
    assert ended.code == 2
    assert ended.told[-1] == "latentpad: gradient norm is nan at step 6"
    assert steps_in(ended.run / "checkpoints") == [4]


@pytest.mark.parametrize("raises", [False, True])
def test_rolled_back_a_run_goes_on_in_smaller_steps_and_finishes(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raises: bool
) -> None:
    trouble(monkeypatch, step=6, raises=raises)
    ended = train(write_recipe(base, tmp_path, action="roll_back", step_factor=0.25), capsys)
    assert ended.code == 0
    [told] = [line for line in ended.told if "rolled back" in line]
    assert told.endswith("; rolled back to step 4, learning rates now times 0.25")
    assert [record["step"] for record in metrics(ended.run)] == list(range(1, STEPS + 1))
    assert [record["learning_rate"] for record in metrics(ended.run)] == [0.003] * 4 + [0.00075] * 4
    assert all(math.isfinite(record["loss"]) for record in metrics(ended.run))
    assert (ended.left["/roll_backs"], ended.left["/step_scale"]) == (1, 0.25)
    assert max(steps_in(ended.run / "checkpoints")) == STEPS
    if not raises:
        assert short(ended.run) == [(6, "not_finite", "roll_back")]


def test_trouble_that_smaller_steps_do_not_cure_ends_the_run(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble(monkeypatch, step=6, while_scale=0.0)
    ended = train(write_recipe(base, tmp_path, action="roll_back", max_roll_backs=2), capsys)
    assert ended.code == 2
    assert [line.rpartition("times ")[2] for line in ended.told if "rolled back" in line] == ["0.5", "0.25"]
    assert ended.told[-1] == "latentpad: step 6: loss is nan; 2 roll backs did not help"
    assert max(steps_in(ended.run / "checkpoints")) == 4
    assert [record["step"] for record in metrics(ended.run)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_its_roll_back_a_run_ends_in_the_same_bits(
    tmp_path: Path, base: Path, raises: bool, when: Any
) -> None:
    undisturbed = write_recipe(base, tmp_path / "undisturbed", action="roll_back")
    disturbed = write_recipe(base, tmp_path / "disturbed", action="roll_back")
    once = tmp_path / "once"
    ends = []
    for recipe, dies in ((undisturbed, None), (disturbed, once), (disturbed, once)):
        prepare = Trouble(step=6, raises=raises, die_once=dies, when=when)
        ends.append(worker.finish(worker.start(recipe, recipe.parent / "run", prepare)))
    assert ends == [0, -signal.SIGKILL, 0]
    assert_same_run(tmp_path / "disturbed" / "run", tmp_path / "undisturbed" / "run", steps=STEPS)


def test_killed_at_random_a_run_that_rolls_back_ends_in_the_same_bits(tmp_path: Path, base: Path) -> None:
    """Trouble comes at step 6 until steps are a quarter: two roll backs, the second from a later start or not."""
    steps, kills = 12, 6
    folders = [tmp_path / "undisturbed", tmp_path / "disturbed"]
    undisturbed, disturbed = (write_recipe(base, folder, steps=steps, action="roll_back") for folder in folders)
    prepare = Trouble(step=6, while_scale=0.5)
    assert worker.finish(worker.start(undisturbed, folders[0] / "run", prepare)) == 0
    rng = Random("kills while rolling back")
    killed = 0
    for step in sorted(rng.sample(range(1, steps), kills)):
        child = worker.start(disturbed, folders[1] / "run", prepare)
        worker.signal_at(child, folders[1] / "run", step, after=rng.uniform(0, 0.05))
        worker.finish(child)
        killed += child.exitcode == -signal.SIGKILL
    assert killed >= kills // 2
    assert worker.finish(worker.start(disturbed, folders[1] / "run", prepare)) == 0
    assert_same_run(folders[1] / "run", folders[0] / "run", steps=steps)
    assert saved(folders[0] / "run" / "checkpoints" / str(steps))["/roll_backs"] == 2


# A real collapse


def rewards(run: Path) -> list[float]:
    return [record["reward"] for record in metrics(run)]


def best(values: Sequence[float], window: int) -> float:
    return max(fmean(values[i : i + window]) for i in range(len(values) - window + 1))


def test_a_policy_that_collapses_under_huge_steps_saves_itself_by_rolling_back(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers most sums; one step with a learning rate of 2 destroys it; 10,000 times smaller ones do not."""
    able = runs.base(tmp_path_factory.getbasetemp(), steps=300)
    ended = {}
    for action in ("warn", "roll_back"):
        recipe = runs.write_rl(
            able,
            tmp_path / action,
            training={"steps": 16, "checkpoint_every": 8, "learning_rate": 2.0},
            rl={"prompts_per_step": 16},
            rollout={"chunk_size": 128},
            health={"action": action, "window": 3, "step_factor": 1e-4},
        )
        ended[action] = train(recipe, capsys)
        assert ended[action].code == 0
    lost, saved_run = (rewards(ended[action].run) for action in ("warn", "roll_back"))
    assert lost[0] == saved_run[0] > 0.6
    assert fmean(lost[-5:]) < 0.05
    assert fmean(saved_run[-5:]) >= 0.8 * best(saved_run, 5)
    assert fmean(saved_run[-5:]) > 0.5
    assert ended["roll_back"].left["/roll_backs"] == 1
    assert [(name, action) for _, name, action in short(ended["roll_back"].run) if action != "warn"] == [
        ("reward_collapse", "roll_back")
    ]
    assert ("reward_collapse", "warn") in [(name, action) for _, name, action in short(ended["warn"].run)]
