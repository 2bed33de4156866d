"""Batched sampling with a KV cache on the transformers model, in this process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from latentpad.rollout import Samples
from latentpad.rollout.weights import held, put_in
from latentpad.types import FinishReason, Rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from latentpad.models.policy import Policy
    from latentpad.rollout import Request, Sampling
    from latentpad.rollout.weights import Weights

# Finished rows leave the batch once they are this share of it: leaving costs a copy of the cache.
_COMPACT_AT = 0.2


class LocalEngine:
    """Samples in chunks of `chunk_size` requests.

    A rollout's tokens depend on its seed: its uniforms come from a Philox generator of its own, one a token, through
    the inverse of the cumulative distribution. The shape of a batch can still change the last bits of its logits, and
    so, very rarely, a token; therefore chunks are cut from the requests in their order, by the recipe's size alone.
    """

    def __init__(self, policy: Policy, *, chunk_size: int) -> None:
        self._policy = policy
        self._chunk_size = chunk_size
        self._version, self._adapter_hash = 0, ""

    def sync(self, version: int, adapter_hash: str) -> None:
        """The engine samples from the learner's own weights, so only their name changes."""
        self._version, self._adapter_hash = version, adapter_hash

    @contextmanager
    def holding(self, weights: Weights) -> Iterator[None]:
        """Within the block sample from these weights, which may be older than the learner's."""
        before = self._version, self._adapter_hash
        self._version, self._adapter_hash = weights.version, weights.hash
        with held(weights, self._policy):
            yield
        self._version, self._adapter_hash = before

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_chunk: Callable[[int], None] | None = None
    ) -> list[Rollout]:
        """One rollout for each request, in order; `on_chunk` hears how many more are done."""
        rollouts: list[Rollout] = []
        with _evaluating(self._policy):
            for start in range(0, len(requests), self._chunk_size):
                chunk = requests[start : start + self._chunk_size]
                samples = _sample(self._policy, [r.prompt.token_ids for r in chunk], [r.seed for r in chunk], sampling)
                rollouts += as_rollouts(chunk, samples, self._version, self._adapter_hash)
                if on_chunk is not None:
                    on_chunk(len(chunk))
        return rollouts


class LocalSampler:
    """The same sampling in a rollout worker, on a policy of its own."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def load(self, weights: Weights) -> str:
        """Replace the trained weights; returns the hash of what the model holds then. Raises `SyncError`."""
        put_in(weights, self._policy)
        return self._policy.trainable_hash()

    def sample(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], sampling: Sampling) -> Samples:
        """One response a prompt, all in one batch."""
        with _evaluating(self._policy):
            return _sample(self._policy, prompts, seeds, sampling)

    def score(self, sequences: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Logprobs of each sequence's tokens but its first."""
        return score(self._policy, sequences)

    def close(self) -> None:
        """Nothing is held but memory."""


def as_rollouts(requests: Sequence[Request], samples: Samples, version: int, adapter_hash: str) -> list[Rollout]:
    """What was sampled for each request, with the version and hash of the weights that it was sampled from."""
    return [
        Rollout(r.prompt, ids, logs, FinishReason.STOP if stop else FinishReason.LENGTH, version, adapter_hash, r.seed)
        for r, ids, logs, stop in zip(requests, samples.token_ids, samples.logprobs, samples.stopped, strict=True)
    ]


@torch.inference_mode()
def score(policy: Policy, sequences: Sequence[tuple[int, ...]]) -> list[list[float]]:
    """Logprobs in nats of each sequence's tokens but its first, at temperature 1; those of one length in one batch."""
    found: dict[int, list[float]] = {}
    with _evaluating(policy), policy.arithmetic():
        for length in {len(sequence): None for sequence in sequences}:
            places = [i for i, sequence in enumerate(sequences) if len(sequence) == length]
            ids = torch.tensor([sequences[i] for i in places], device=policy.device)
            logprobs = policy.model(input_ids=ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
            rows = logprobs.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1).tolist()
            found |= dict(zip(places, rows, strict=True))
    return [found[i] for i in range(len(sequences))]


@contextmanager
def _evaluating(policy: Policy) -> Iterator[None]:
    training = policy.model.training
    policy.model.eval()
    try:
        yield
    finally:
        policy.model.train(training)


def uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """[B, count] float64 in [0, 1): row i depends on seed i alone, and its start not on `count`."""
    rows = [np.random.Generator(np.random.Philox(seed)).random(count) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


def choose(logits: Tensor, uniform: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next token and its logprob.

    Args:
        logits: [B, V].
        uniform: [B] in [0, 1).
        sampling: temperature and forbidden tokens.

    Returns:
        token ids [B] and logprobs [B] in nats.
    """
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits  # as the learner does
    if sampling.forbidden_ids:
        logits = logits.index_fill(1, torch.tensor(sampling.forbidden_ids, device=logits.device), -torch.inf)
    if sampling.temperature == 0:
        logprobs = logits.log_softmax(-1)
        token = logits.argmax(-1)
    else:
        logprobs = (logits / sampling.temperature).log_softmax(-1)
        cumulative = logprobs.double().exp().cumsum(-1)
        threshold = (uniform * cumulative[:, -1]).unsqueeze(-1)
        token = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
        token = token.clamp(max=logits.shape[-1] - 1)
    return token, logprobs.gather(-1, token.unsqueeze(-1)).squeeze(-1)


class _Rows:
    """The rows still being written, and what the model needs to go on with them."""

    def __init__(self, prompts: Sequence[tuple[int, ...]], room: int, device: str) -> None:
        width = max(len(prompt) for prompt in prompts)
        self.ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        self.mask = torch.zeros(len(prompts), width + room, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            self.ids[row, width - len(prompt) :] = torch.tensor(prompt)
            self.mask[row, width - len(prompt) :] = 1
        self.padded = bool((self.mask == 0).any())
        self.ids, self.mask = self.ids.to(device), self.mask.to(device)
        self.positions = (self.mask[:, :width].cumsum(-1) - 1).clamp(min=0)
        self.width = width
        self.index = torch.arange(len(prompts), device=device)
        self.cache: Any = None

    def forward(self, model: Any) -> Tensor:
        """Logits [rows, V] of the next token."""
        out = model(
            input_ids=self.ids,
            attention_mask=self.mask[:, : self.width] if self.padded else None,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        logits: Tensor = out.logits[:, -1, :]
        return logits

    def advance(self, token: Tensor) -> None:
        """Append the sampled tokens."""
        self.ids = token.unsqueeze(1)
        self.positions = self.positions[:, -1:] + 1
        self.width += 1

    def keep(self, rows: Tensor) -> None:
        """Drop every other row."""
        self.ids, self.mask, self.positions = self.ids[rows], self.mask[rows], self.positions[rows]
        self.index = self.index[rows]
        self.cache.batch_select_indices(rows)


@torch.inference_mode()
def _sample(policy: Policy, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int], sampling: Sampling) -> Samples:
    device, limit, count = policy.device, sampling.max_new_tokens, len(prompts)
    draws = uniforms(seeds, limit).to(device)
    tokens = torch.zeros(count, limit, dtype=torch.int64, device=device)
    logprobs = torch.zeros(count, limit, dtype=torch.float32, device=device)
    lengths = torch.full((count,), limit, device=device)
    stopped = torch.zeros(count, dtype=torch.bool, device=device)
    stop_ids = torch.tensor(policy.stop_ids, device=device)
    rows = _Rows(prompts, limit, device)
    with policy.arithmetic():
        for position in range(limit):
            token, logprob = choose(rows.forward(policy.model), draws[rows.index, position], sampling)
            running = ~stopped[rows.index]
            tokens[rows.index, position] = token
            logprobs[rows.index, position] = logprob.float()
            ended = running & torch.isin(token, stop_ids)
            lengths[rows.index[ended]] = position + 1
            stopped[rows.index[ended]] = True
            running &= ~ended
            live = int(running.sum())
            if live == 0:
                break
            rows.advance(token)
            if live <= (1 - _COMPACT_AT) * len(rows.index):
                rows.keep(running.nonzero().squeeze(-1))
    ends = lengths.tolist()
    ids = [tuple(row[:end]) for row, end in zip(tokens.tolist(), ends, strict=True)]
    return Samples(ids, [tuple(r[:e]) for r, e in zip(logprobs.tolist(), ends, strict=True)], stopped.tolist())
