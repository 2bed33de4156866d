"""The trained weights as one flat buffer, on their way to a rollout worker: with a version and their hash."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from latentpad.models.policy import Policy

# The start of every tensor in the buffer is a multiple of it, in bytes.
_ALIGNED = 16


class SyncError(MachineError):
    """Weights did not arrive in a worker as they were sent. One line. Exit code 3."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in the buffer, in bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    stop: int


@dataclass(frozen=True)
class Weights:
    """All trained weights of a policy: an adapter alone under LoRA, everything in full fine-tuning.

    Attributes:
        version: training steps that they have taken.
        hash: `Policy.trainable_hash()` of them.
        entries: what lies where.
        digest: SHA-256 of the buffer.
        buffer: uint8, one dimension; may be read-only.
    """

    version: int
    hash: str
    entries: tuple[Entry, ...]
    digest: str
    buffer: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def header(self) -> Header:
        """All but the buffer."""
        return Header(self.version, self.hash, self.entries, self.digest)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies, by name, once the buffer was found to be what was sent.

        Raises:
            SyncError: it is not.
        """
        if (found := _sha256(self.buffer)) != self.digest:
            raise SyncError(
                f"weights of version {self.version}: {self.buffer.nbytes} bytes with SHA-256 {found[:12]}, sent were "
                f"those with {self.digest[:12]}"
            )
        flat = torch.from_numpy(self.buffer.copy())
        return {e.name: flat[e.start : e.stop].view(getattr(torch, e.dtype)).view(e.shape) for e in self.entries}


@dataclass(frozen=True, slots=True)
class Header:
    """What is said of a buffer of weights that is sent apart from it."""

    version: int
    hash: str
    entries: tuple[Entry, ...]
    digest: str

    def with_buffer(self, buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> Weights:
        """Both together again."""
        return Weights(self.version, self.hash, self.entries, self.digest, buffer)


def flatten(policy: Policy, version: int, trainable_hash: str) -> Weights:
    """A copy of the trained weights as they are now.

    Args:
        policy: whose.
        version: training steps that it has taken.
        trainable_hash: its `trainable_hash()`.
    """
    entries, at = [], 0
    parameters = sorted(policy.trainable().items())
    for name, parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        dtype = str(parameter.dtype).removeprefix("torch.")
        entries.append(Entry(name, tuple(parameter.shape), dtype, at, at + size))
        at += -(-size // _ALIGNED) * _ALIGNED
    buffer = np.zeros(at, dtype=np.uint8)
    flat = torch.from_numpy(buffer)
    for entry, (_, parameter) in zip(entries, parameters, strict=True):
        flat[entry.start : entry.stop] = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
    return Weights(version, trainable_hash, tuple(entries), _sha256(buffer), buffer)


@torch.no_grad()
def put_in(weights: Weights, policy: Policy) -> None:
    """Replace the policy's trained weights, all of them or none; nothing is merged, the base is not touched.

    Raises:
        SyncError: names, shapes or types are not those of this policy, or the buffer is not what was sent.
    """
    parameters = policy.trainable()
    check_fits(weights, parameters)
    for name, tensor in weights.tensors().items():
        parameters[name].copy_(tensor)


def check_fits(weights: Weights, parameters: Mapping[str, torch.Tensor]) -> None:
    """Whether the weights are those of a model with these trained parameters, by what is said of them.

    Raises:
        SyncError: names, shapes or types are others.
    """
    expected = {name: (tuple(p.shape), str(p.dtype).removeprefix("torch.")) for name, p in parameters.items()}
    given = {entry.name: (entry.shape, entry.dtype) for entry in weights.entries}
    if expected != given:
        raise SyncError(
            f"weights of version {weights.version} do not fit the worker's model: {_unlike(expected, given)}"
        )


@contextmanager
def held(weights: Weights, policy: Policy) -> Iterator[None]:
    """Within the block the policy has these trained weights; after it each is what it was, to the bit."""
    if (now := policy.trainable_hash()) == weights.hash:
        yield
        return
    own = flatten(policy, weights.version, now)
    put_in(weights, policy)
    try:
        yield
    finally:
        put_in(own, policy)


def _unlike(expected: dict[str, Any], given: dict[str, Any]) -> str:
    missing, unknown = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    if missing or unknown:
        parts = [f"{len(missing)} of {len(expected)} are missing, first {missing[0]}"] if missing else []
        parts += [f"{len(unknown)} are unknown to it, first {unknown[0]}"] if unknown else []
        return "; ".join(parts)
    name = next(name for name in sorted(expected) if expected[name] != given[name])
    return f"{name} is {given[name]}, where the model has {expected[name]}"


def _sha256(buffer: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    return hashlib.sha256(buffer.data).hexdigest()
