"""Four bugs of the field that a start-up proof must see though training would run: planted, and refused in one line."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from latentpad.algorithms import parts
from latentpad.models.reference import Reference
from latentpad.training import collect
from latentpad.training.collate import Rows
from tests.training.test_proofs import KL, failed, trainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from latentpad.types import Batch


def test_a_mask_that_leaves_the_stop_token_out_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, collate = trainer(tmp_path), Rows.collate

    def without_stop(self: Rows) -> Batch:
        batch = collate(self)
        response = batch.token_ids[:, -batch.weights.shape[1] :]
        stops = torch.isin(response, torch.tensor(made.policy.stop_ids))
        return replace(batch, response_mask=batch.response_mask & ~stops)

    monkeypatch.setattr(Rows, "collate", without_stop)
    assert failed(made).startswith("a response that stopped has no weight on its stop token")


def test_advantages_that_vanish_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1e4 beside the standard deviation in place of 1e-4 leaves the sign, and nothing of the size."""
    monkeypatch.setattr(parts, "EPSILON", 1e4)
    assert failed(trainer(tmp_path)).startswith("rewards of 1 and 0 give advantages of at most 5e-05")


def test_a_group_that_shares_its_seed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "seed_of", lambda *names: hash(names[:-1]))
    assert failed(trainer(tmp_path)) == "rollouts share a seed: those of a group would all be the same"


def test_a_reference_that_stays_in_the_policy_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def left_there(self: Reference) -> Iterator[Any]:
        for name, parameter in self.policy.trainable().items():
            parameter.data = self.weights[name]
        yield self.policy.model

    monkeypatch.setattr(Reference, "model", left_there)
    made = trainer(tmp_path, rl={"kl": KL})
    assert failed(made).startswith("the reference's weights stay in the policy after its forward pass")
