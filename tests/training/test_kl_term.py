"""The reference is the policy that the recipe names, moves when it says, and leaves the policy's bits alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms.grpo import GRPO
from latentpad.algorithms.parts import kl_estimate
from latentpad.models.reference import Reference
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.rl_schema import KLSection
from latentpad.training.checkpoint import STATE, write_checkpoint
from latentpad.training.kl_term import KLTerm
from latentpad.training.learner import Learner
from latentpad.training.rows import observe
from tests import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from latentpad.models.policy import Policy


def term(policy: Policy, **options: Any) -> KLTerm:
    return KLTerm(policy, KLSection(**{"coef": 0.1} | options))


@torch.no_grad()
def move(policy: Policy, by: float = 0.05) -> None:
    for weight in policy.trainable().values():
        weight.add_(by)


def kl(policy: Policy, made: KLTerm) -> float:
    """Mean k3 between the policy and the reference, on tokens that the policy samples."""
    rollouts = tiny.sampled(policy, 4)
    learner = Learner(policy, GRPO(), tiny.optimizer(policy), 1.0)
    found = observe(rollouts, learner, reference=made.reference, critic=None, budget=1000)
    assert found.reference_logprobs is not None
    own = torch.cat([torch.tensor(r.logprobs) for r in rollouts])
    return float(kl_estimate(own.double(), torch.cat(found.reference_logprobs).double(), "k3").mean())


def weights(made: KLTerm) -> dict[str, torch.Tensor]:
    assert made.reference is not None
    return {name: tensor.clone() for name, tensor in made.reference.weights.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name].data) for name, tensor in a.items())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("options", [{}, {"reference": "moving", "refresh_every": 3}], ids=["base", "moving"])
def test_kl_is_0_until_the_policy_moves(tmp_path: Path, lora: bool, options: dict[str, Any]) -> None:
    policy = tiny.lora_policy(tmp_path) if lora else tiny.policy()
    made = term(policy, **options)
    assert kl(policy, made) == pytest.approx(0, abs=1e-9)
    move(policy, 0.2)
    assert kl(policy, made) > 1e-4


def test_a_base_stays_for_ever_and_a_moving_one_is_retaken_exactly_when_it_is_due() -> None:
    policy = tiny.policy()
    base, moving = term(policy), term(policy, reference="moving", refresh_every=3)
    start = weights(base)
    due = dict(start)
    for step in range(7):
        move(policy)
        if (step + 1) % 3 == 0:  # after the third and the sixth step
            due = {name: p.detach().clone() for name, p in policy.trainable().items()}
        base.after_step(step, 0.01)
        moving.after_step(step, 0.01)
        assert same(weights(base), start)
        assert same(weights(moving), due), step
    assert not same(due, start)


def checkpoint(folder: Path, policy: Policy) -> Path:
    """As a run leaves it, as far as a reference reads it."""
    state = {"weights": {n: p.detach().clone() for n, p in policy.trainable().items()}, "base": policy.base_hash()}
    return write_checkpoint(folder, 7, lambda aside: torch.save(state, aside / STATE), key="k")


def test_another_runs_checkpoint_may_be_the_reference(tmp_path: Path) -> None:
    other = tiny.lora_policy(tmp_path / "base", touched=True)
    path = checkpoint(tmp_path / "run", other)
    policy = tiny.lora_policy(tmp_path / "base")
    made = term(policy, reference=str(path))
    assert same(weights(made), other.trainable())
    assert kl(policy, made) > 1e-4
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            weight.copy_(other.trainable()[name])
    assert kl(policy, made) == pytest.approx(0, abs=1e-9)


def refused(policy: Policy, path: Path) -> str:
    with pytest.raises(RecipeError) as error:
        term(policy, reference=str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_that_is_no_reference_is_refused_in_one_line(tmp_path: Path) -> None:
    policy = tiny.lora_policy(tmp_path / "base")
    line = f"rl.kl.reference: got {str(tmp_path)!r}; expected base, moving, or a checkpoint of an RL run"
    assert refused(policy, tmp_path).startswith(line)
    full = checkpoint(tmp_path / "full", tiny.policy())
    assert refused(policy, full).startswith(f"rl.kl.reference: {full} was trained on other base weights")
    foreign = checkpoint(tmp_path / "foreign", tiny.lora_policy(tmp_path / "other base", seed=1))
    assert refused(policy, foreign).startswith(f"rl.kl.reference: {foreign} was trained on other base weights")
    larger = tiny.policy(sizes=tiny.SIZES.model_copy(update={"intermediate_size": 48}))
    shapes = checkpoint(tmp_path / "shapes", larger)
    assert refused(tiny.policy(), shapes) == (f"rl.kl.reference: {shapes} does not train the same weights as this run")
    torn = checkpoint(tmp_path / "torn", policy)
    (torn / STATE).write_bytes(b"torn")
    assert str(torn) in refused(policy, torn)


@pytest.mark.parametrize(
    ("options", "loss", "reward", "estimator"),
    [
        ({}, 0.1, 0.0, "k3"),
        ({"place": "loss", "estimator": "k2"}, 0.1, 0.0, "k2"),
        ({"place": "reward"}, 0.0, 0.1, "k3"),
        (None, 0.0, 0.0, "k3"),
    ],
    ids=str,
)
def test_kl_stands_in_the_loss_or_in_the_reward(
    options: dict[str, Any] | None, loss: float, reward: float, estimator: str
) -> None:
    policy = tiny.policy()
    made = KLTerm(policy, None) if options is None else term(policy, **options)
    assert (made.loss_coef, made.reward_coef, made.estimator) == (loss, reward, estimator)
    assert (made.reference is None) == (options is None)


def test_without_a_section_nothing_is_told_or_kept() -> None:
    made = KLTerm(tiny.policy(), None)
    assert made.after_step(0, None) == {}
    made.load(made.state())
    assert made.state()["weights"] == {}


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_the_weight_that_is_told_is_the_one_that_the_step_used(place: str) -> None:
    # target .01: KL .02 is far above, 2% more; KL .001 far below, 2% less; none at all leaves it
    made = term(tiny.policy(), place=place, target=0.01)
    told = [made.after_step(step, found)["kl_coef"] for step, found in enumerate([0.02, None, 0.001, 0.01])]
    assert told == pytest.approx([0.1, 0.102, 0.102, 0.102 * 0.98])
    assert made.loss_coef + made.reward_coef == pytest.approx(0.102 * 0.98)


def test_without_a_target_the_weight_stays() -> None:
    made = term(tiny.policy())
    assert [made.after_step(step, 5.0) for step in range(3)] == [{"kl_coef": 0.1}] * 3


def test_taken_up_from_its_state_it_has_the_same_weight_and_the_same_moving_reference(tmp_path: Path) -> None:
    policy = tiny.policy()
    options: dict[str, Any] = {"reference": "moving", "refresh_every": 2, "target": 0.01}
    made = term(policy, **options)
    for step in range(3):
        move(policy)
        made.after_step(step, 0.5)
    torch.save(made.state(), tmp_path / "state.pt")
    move(policy)
    other = term(policy, **options)
    assert not same(weights(other), weights(made))
    other.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(weights(other), weights(made))
    assert other.loss_coef == made.loss_coef == pytest.approx(0.1 * 1.02**3)
    assert term(policy).state()["weights"] == {}  # a base is taken anew at every start


@pytest.mark.parametrize("lora", [False, True])
def test_laying_a_reference_under_the_policy_leaves_its_bits_even_where_something_breaks(
    tmp_path: Path, lora: bool
) -> None:
    policy = tiny.lora_policy(tmp_path, touched=True) if lora else tiny.policy()
    reference = Reference.of(policy)
    move(policy)
    before, places = policy.trainable_hash(), [p.data_ptr() for p in policy.trainable().values()]

    def breaks() -> None:
        with reference.model():
            assert policy.trainable_hash() != before
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        breaks()
    assert policy.trainable_hash() == before
    assert [p.data_ptr() for p in policy.trainable().values()] == places
    reference.retake()
    with reference.model():
        assert policy.trainable_hash() == before
