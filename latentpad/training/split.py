"""Where a response's scratchpad ends and its answer begins, token by token; and another answer in place of its own."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentpad.models.tokenizer import encode_strictly
from latentpad.training.episodes import response_text
from latentpad.types import FinishReason
from reward import CLOSE_TAG, OPEN_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latentpad.models.policy import Policy
    from latentpad.types import Rollout


@dataclass(frozen=True, slots=True)
class Split:
    """Where a response's scratchpad ends.

    Attributes:
        tokens: how many of the sampled tokens, from the first, are the scratchpad's and nothing else's.
        tail: what is to be written before another answer can follow them: what is left of a scratchpad whose end lies
            within a token, or the closing tag of one that was not closed; mostly nothing.
    """

    tokens: int
    tail: str


NO_SCRATCHPAD = Split(0, "")


def split_response(policy: Policy, rollout: Rollout, line_break: str) -> Split:
    """Scratchpad and answer of a response, told apart as the grader does: the answer follows the last closing tag.

    With the tag goes the format's line break after it. A response without tags has no scratchpad. One that opens a
    scratchpad and does not close it is all scratchpad, but for a sampled stop token.
    """
    ids = rollout.token_ids[:-1] if rollout.finish_reason is FinishReason.STOP else rollout.token_ids
    text = response_text(policy, rollout)
    before, closed, after = text.rpartition(CLOSE_TAG)
    if OPEN_TAG in after:
        return Split(len(ids), CLOSE_TAG + line_break)
    if not closed:
        return NO_SCRATCHPAD
    broken = after.startswith(line_break)
    scratchpad = before + closed + (line_break if broken else "")
    tokens = _tokens_within(policy, ids, scratchpad)
    left = scratchpad[len(_text(policy, ids[:tokens])) :]
    return Split(tokens, left + ("" if broken else line_break))


def _tokens_within(policy: Policy, ids: Sequence[int], text: str) -> int:
    """The largest number of tokens that spell a beginning of `text`."""
    count = bisect_right(range(1, len(ids) + 1), len(text), key=lambda n: len(_text(policy, ids[:n])))
    while not text.startswith(_text(policy, ids[:count])):  # a token that ends within a character
        count -= 1
    return count


def _text(policy: Policy, ids: Sequence[int]) -> str:
    text: str = policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def with_answer(policy: Policy, rollout: Rollout, split: Split, answer: str) -> Rollout:
    """The rollout with its scratchpad's tokens as they were sampled, then this answer and a stop token.

    Logprobs of what was not sampled are 0 and to be put in.
    """
    ids = (*encode_strictly(policy.tokenizer, split.tail + answer), policy.stop_ids[0])
    return replace(
        rollout,
        token_ids=(*rollout.token_ids[: split.tokens], *ids),
        logprobs=(*rollout.logprobs[: split.tokens], *(0.0 for _ in ids)),
        finish_reason=FinishReason.STOP,
    )
