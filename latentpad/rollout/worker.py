"""What runs in a rollout worker: a policy of its own, the weights that it was last sent, and a sampler."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad import __version__
from latentpad.launch.passed_on import forget_launcher
from latentpad.recipe.errors import RecipeError
from latentpad.recipe.schema import Recipe
from latentpad.rollout.weights import SyncError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from latentpad.models.policy import Policy
    from latentpad.rollout import Sampler, Samples, Sampling
    from latentpad.rollout.weights import Header

# Of other versions of these, numbers may differ.
_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is.

    Attributes:
        host, pid: where it runs.
        versions: of the packages that numbers depend on.
        base_hash: of the weights under the adapter, `Policy.base_hash()`.
        stop_ids: tokens that end a response.
        threads: that it computes with.
    """

    host: str
    pid: int
    versions: dict[str, str]
    base_hash: str
    stop_ids: tuple[int, ...]
    threads: int

    def unlike(self, other: Identity) -> str | None:
        """What makes another's numbers different, in words, or None."""
        for package, ours in self.versions.items():
            if other.versions[package] != ours:
                return f"has {package} {other.versions[package]}, this process {ours}: install the same on all nodes"
        if other.base_hash != self.base_hash:
            return "holds other base weights: give every node the same checkpoint at model.path"
        if other.stop_ids != self.stop_ids:
            return f"stops at tokens {other.stop_ids}, this process at {self.stop_ids}: give all the same checkpoint"
        return None


def identity(policy: Policy) -> Identity:
    """Of this process, with this policy."""
    import torch

    versions = {"latentpad": __version__, **{name: version(name) for name in _PACKAGES}}
    threads = torch.get_num_threads()
    return Identity(socket.gethostname(), os.getpid(), versions, policy.base_hash(), policy.stop_ids, threads)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers to a chunk.

    Attributes:
        version, hash: of the weights that it holds, by its own count: of what is in its model, not of what was sent.
        scores: logprobs of the probe, if it has loaded weights for this chunk.
        samples: the responses.
        load_seconds, sample_seconds: what it took.
    """

    version: int
    hash: str
    scores: list[list[float]] | None
    samples: Samples
    load_seconds: float
    sample_seconds: float


class RolloutWorker:
    """One at a time; a request names the weights that it is for, so that a new life can take up any of them."""

    def __init__(self, recipe: dict[str, Any], threads: int) -> None:
        """Build the policy that the recipe starts from.

        Raises:
            RecipeError: it is not to be had on this machine.
            MachineError: a package is missing here.
        """
        forget_launcher()
        import torch

        from latentpad.models.build import starting_policy

        self._threads = threads
        torch.set_num_threads(threads)
        checked = Recipe.model_validate(recipe)
        path = checked.model.path
        if path is not None and not Path(path).is_dir():
            raise RecipeError(f"{socket.gethostname()}: no folder {path} here: put the checkpoint there on every node")
        self._policy = starting_policy(checked)
        self._identity = identity(self._policy)
        self._sampler = make_sampler(self._policy, checked)
        self._holds: tuple[int, str] | None = None

    def describe(self) -> Identity:
        """Who this is."""
        return self._identity

    def alive(self) -> bool:
        """A sign of life, also while a chunk is sampled."""
        return True

    def sample(
        self,
        header: Header,
        buffer: np.ndarray[Any, np.dtype[np.uint8]],
        probe: tuple[tuple[int, ...], ...],
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> Reply:
        """One response a prompt from these very weights, loaded first if others are held.

        Raises:
            SyncError: the weights do not fit, or are not what was sent.
        """
        import torch

        torch.set_num_threads(self._threads)  # is a setting of the thread, and which one this is, is not ours
        start, scores = time.monotonic(), None
        if self._holds != (header.version, header.hash):
            self._holds = None
            holds = self._sampler.load(header.with_buffer(buffer))
            if holds != header.hash:
                raise SyncError(
                    f"weights of version {header.version}: the model has hash {holds[:12]} after loading, sent were "
                    f"those with {header.hash[:12]}"
                )
            scores = self._sampler.score(probe)
            self._holds = (header.version, holds)
        loaded = time.monotonic()
        samples = self._sampler.sample(prompts, seeds, sampling)
        return Reply(*self._holds, scores, samples, loaded - start, time.monotonic() - loaded)


def make_sampler(policy: Policy, recipe: Recipe) -> Sampler:
    """What the recipe samples with. Raises `MachineError` where it is not installed."""
    if recipe.rollout.samples_with == "vllm":
        from latentpad.rollout.vllm import VLLMSampler

        # Room for the longest sequence of this recipe, not for all that the model could hold.
        return VLLMSampler(policy, max_positions=_positions(policy, recipe))
    from latentpad.rollout.local import LocalSampler

    return LocalSampler(policy)


def _positions(policy: Policy, recipe: Recipe) -> int | None:
    """Prompt and response are checked to fit the model; a checkpoint with a long context need not have it all."""
    known = getattr(policy.model.config, "max_position_embeddings", None)
    return None if known is None else min(int(known), max(4096, 2 * recipe.rollout.max_new_tokens))
