"""Optimizers by name: they learn, cost what they say, and go on from a checkpoint in the very same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.recipe.errors import MachineError
from latentpad.training import optimizers
from latentpad.training.optimizers import make_optimizer
from tests.training.runs import flat

if TYPE_CHECKING:
    from pathlib import Path

EIGHT_BIT = ["adamw_8bit", "paged_adamw_8bit", "lion_8bit"]
KINDS = [None, "adamw", *EIGHT_BIT]
# One tensor of an 8-bit state whose last block is not full, one of a 32-bit state.
SHAPES = [(70, 90), (32, 16)]


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], numbers: range) -> None:
    """Gradient descent on the distance to 0, with noise that depends on the step's number alone."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for weight in weights:
            weight.grad = weight.detach() + 0.1 * torch.randn(weight.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def made(kind: str | None, weights: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return make_optimizer(kind, weights, lr=0.01, weight_decay=0.1)


@pytest.mark.parametrize("kind", [None, "adamw"])
def test_the_default_is_adamw_of_torch_to_the_bit(kind: str | None) -> None:
    ours, theirs = parameters(), parameters()
    steps(made(kind, ours), ours, range(5))
    steps(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1), theirs, range(5))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw_8bit"])
def test_adamw_in_8_bits_goes_nearly_where_adamw_goes(kind: str) -> None:
    ours, theirs, start = parameters(), parameters(), parameters()
    steps(made(kind, ours), ours, range(20))
    steps(made("adamw", theirs), theirs, range(20))
    for a, b, c, limit in zip(ours, theirs, start, (0.1, 1e-4), strict=True):
        assert (b - c).norm() > 0.1
        assert (a - b).norm() < limit * (b - c).norm()


def test_the_first_step_of_lion_is_the_sign_of_the_gradient() -> None:
    weights, start = parameters(), parameters()
    steps(make_optimizer("lion_8bit", weights, lr=0.01, weight_decay=0.0), weights, range(1))
    generator = torch.Generator().manual_seed(0)
    for weight, was in zip(weights, start, strict=True):
        gradient = was + 0.1 * torch.randn(was.shape, generator=generator)
        torch.testing.assert_close(weight, was - 0.01 * gradient.sign())


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_shrinks_a_weight_without_a_gradient_by_rate_times_decay(kind: str | None) -> None:
    weights = parameters()
    before = [weight.detach().clone() for weight in weights]
    optimizer = make_optimizer(kind, weights, lr=0.01, weight_decay=0.5)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for weight, was in zip(weights, before, strict=True):
        torch.testing.assert_close(weight.detach(), was * 0.995)


def tensors(state: Any) -> list[torch.Tensor]:
    return [leaf for leaf in flat(state).values() if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize(("kind", "moments"), [("adamw_8bit", 2), ("paged_adamw_8bit", 2), ("lion_8bit", 1)])
def test_large_tensors_have_moments_of_one_byte_and_small_ones_of_four(kind: str, moments: int) -> None:
    weights = parameters()
    optimizer = made(kind, weights)
    steps(optimizer, weights, range(1))
    large, small = (optimizer.state[weight] for weight in weights)
    names = [f"state{number + 1}" for number in range(moments)]
    assert [(large[name].dtype, large[name].numel()) for name in names] == [(torch.uint8, 6300)] * moments
    assert [(small[name].dtype, small[name].numel()) for name in names] == [(torch.float32, 512)] * moments
    assert large["absmax1"].shape == (25,)  # 6300 / 256, rounded up
    assert not any("state2" in state for state in (large, small) if moments == 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 1, 7])
def test_taken_up_from_disk_it_goes_on_in_the_same_bits(tmp_path: Path, kind: str | None, stop: int) -> None:
    whole = parameters()
    undisturbed = made(kind, whole)
    steps(undisturbed, whole, range(12))

    first = parameters()
    killed = made(kind, first)
    steps(killed, first, range(stop))
    torch.save({"weights": [p.detach() for p in first], "optimizer": killed.state_dict()}, tmp_path / "state.pt")
    del killed
    saved = torch.load(tmp_path / "state.pt", weights_only=True)

    second = parameters(seed=1)
    resumed = made(kind, second)
    steps(resumed, second, range(30, 33))  # a roll back loads into an optimizer that has a state
    with torch.no_grad():
        for weight, value in zip(second, saved["weights"], strict=True):
            weight.copy_(value)
    resumed.load_state_dict(saved["optimizer"])
    steps(resumed, second, range(stop, 12))

    assert all(torch.equal(a, b) for a, b in zip(second, whole, strict=True))
    found, wanted = tensors(resumed.state_dict()), tensors(undisturbed.state_dict())
    assert len(found) == len(wanted) > 0
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", EIGHT_BIT)
def test_without_bitsandbytes_one_line_says_what_to_install(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match=f"'{kind}' needs bitsandbytes: pip install") as refusal:
        made(kind, parameters())
    assert "\n" not in str(refusal.value)
    made("adamw", parameters())
