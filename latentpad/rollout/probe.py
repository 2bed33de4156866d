"""Whether a sampler has the very weights that the trainer has: told by what it makes of a few known tokens.

Versions and hashes say what was sent. They are not believed alone: an adapter that is loaded under the right name and
never applied has them too (verl #7495, where it cost two months).
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from latentpad.rollout.local import score
from latentpad.rollout.weights import SyncError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.models.policy import Policy

# The largest deviation of a logprob between trainer and worker, in nats, by the precision that they compute in.
TOLERANCE = {None: 1e-3, "fp32": 1e-3, "bf16": 0.25}
# Tokens after the prompt, drawn at random: an adapter must be seen on more than prompts.
_TAIL = 16


class Probe:
    """A few token sequences, and what the trainer's own weights make of them, version by version.

    Attributes:
        sequences: token ids.
    """

    def __init__(self, policy: Policy, sequences: Sequence[tuple[int, ...]]) -> None:
        self.sequences = tuple(sequences)
        self._policy, self._tolerance = policy, TOLERANCE[policy.precision]
        self._expected: dict[tuple[int, str], list[float]] = {}  # the newest last

    def advance(self, version: int, trainable_hash: str, *, keep: int = 12) -> None:
        """Note what the trainer's own weights say, now that they are these; the newest `keep` are remembered."""
        self._expected.pop((version, trainable_hash), None)
        self._expected[version, trainable_hash] = _flat(score(self._policy, self.sequences))
        for old in list(self._expected)[:-keep]:
            del self._expected[old]

    def knows(self, version: int, trainable_hash: str) -> bool:
        """Whether it was noted what these weights say."""
        return (version, trainable_hash) in self._expected

    def check(self, version: int, trainable_hash: str, found: Sequence[Sequence[float]], who: str) -> float:
        """The largest deviation in nats of what a worker says of the sequences after it has loaded these weights.

        Args:
            version: that it has loaded.
            trainable_hash: of the weights that it has loaded.
            found: its logprobs of the sequences.
            who: the worker, for the error.

        Raises:
            SyncError: it is above the tolerance; or, however small, the worker is nearer to an older version than to
                the one that it claims.
        """
        expected, given = self._expected[version, trainable_hash], _flat(found)
        if len(given) != len(expected):
            raise SyncError(f"{who}: {len(given)} logprobs of the probe, expected {len(expected)}")
        worst = _largest(given, expected)
        fix = "the weights did not arrive as they were sent; nothing was learned from what it sampled"
        if not worst <= self._tolerance:  # nan fails
            raise SyncError(
                f"{who}: its policy is not the trainer's at version {version}: a logprob of the probe is off by "
                f"{worst:.2g} nats (allowed {self._tolerance:g}); {fix}"
            )
        for (old, _), theirs in self._expected.items():
            if old < version and _distance(given, theirs) < _distance(given, expected):
                raise SyncError(
                    f"{who}: says that it samples from version {version}, and its logprobs are those of version {old}; "
                    f"{fix}"
                )
        return worst


def probe_sequences(
    prompts: Sequence[tuple[int, ...]], vocabulary: int, *, count: int = 2, tail: int = _TAIL
) -> list[tuple[int, ...]]:
    """The first few different prompts, each with tokens behind it that are drawn at random, the same in every run.

    All are of one length, so that they are scored in one batch.

    Args:
        prompts: token ids.
        vocabulary: how many tokens there are.
        count: of sequences.
        tail: tokens behind the longest prompt.
    """
    chosen = list(dict.fromkeys(prompts))[:count]
    rng, length = Random("probe of the weights of a sampler"), max(map(len, chosen)) + tail
    return [(*prompt, *(rng.randrange(vocabulary) for _ in range(length - len(prompt)))) for prompt in chosen]


def _flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _largest(a: Sequence[float], b: Sequence[float]) -> float:
    differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return float("nan") if any(d != d for d in differences) else max(differences)


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))
