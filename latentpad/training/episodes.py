"""From prompts to graded groups: the one path by which a policy's answers earn rewards, in training and evaluation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latentpad.models.tokenizer import encode_strictly
from latentpad.types import Episode, FinishReason, Group, Prompt
from reward import extract_answer, grade_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from latentpad.formats import Format
    from latentpad.models.policy import Policy
    from latentpad.tasks import Task
    from latentpad.types import Problem, Rollout
    from reward import Reward


def make_prompt(policy: Policy, text_format: Format, problem: Problem) -> Prompt:
    """A problem as the policy reads it."""
    text = text_format.prompt(problem.question)
    return Prompt(problem, text, encode_strictly(policy.tokenizer, text))


def response_text(policy: Policy, rollout: Rollout) -> str:
    """What was written, its stop token left out and nothing else."""
    ids = rollout.token_ids[:-1] if rollout.finish_reason is FinishReason.STOP else rollout.token_ids
    text: str = policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def ended(policy: Policy, rollout: Rollout, ends: Sequence[str]) -> tuple[Rollout, str]:
    """The rollout as an engine with these stop strings leaves it, and what it wrote before the first of them.

    Its last token is the one that completes the stop string, and it stopped.
    """
    text = response_text(policy, rollout)
    shown = before(text, ends)
    if shown == text:
        return rollout, text

    def shows(count: int) -> bool:
        ids = rollout.token_ids[:count]
        read = policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return any(end in read for end in ends)

    count = bisect_left(range(len(rollout.token_ids)), True, key=shows)
    ids, logprobs = rollout.token_ids[:count], rollout.logprobs[:count]
    return replace(rollout, token_ids=ids, logprobs=logprobs, finish_reason=FinishReason.STOP), shown


def before(text: str, ends: Sequence[str]) -> str:
    """The text up to the first of the ends, whichever that is.

    >>> before("86\\n\\n1+2=", ["\\n\\n"]), before("86<a>", ["\\n", "<a>"]), before("86", ["\\n"])
    ('86', '86', '86')
    """
    return text[: min((at for end in ends if (at := text.find(end)) >= 0), default=len(text))]


Items = Sequence[tuple[str, str, bool]]


def _graded_here(task: Task, items: Items) -> list[Reward]:
    return grade_many(task.grader, items, **task.grader_options)


def grade_rollouts(
    policy: Policy,
    task: Task,
    rollouts: Sequence[Rollout],
    graded: Callable[[Task, Items], list[Reward]] = _graded_here,
    *,
    ends: Sequence[str] = (),
) -> list[Episode]:
    """Each rollout with what its answer earns. The grader sees the answer and the gold answer, nothing else.

    Args:
        policy: for its tokenizer.
        task: whose grader, with its options.
        rollouts: what was sampled.
        graded: from (response, gold answer, truncated) to rewards: in this process unless given.
        ends: text before which responses end; see `ended`.
    """
    written = [ended(policy, rollout, ends) for rollout in rollouts]
    items = [
        (response, rollout.prompt.problem.answer, rollout.finish_reason is FinishReason.LENGTH)
        for rollout, response in written
    ]
    rewards = graded(task, items)
    return [Episode(*parts, reward) for parts, reward in zip(written, rewards, strict=True)]


def shown_answer(task: Task, response: str) -> str | None:
    """The answer that the grader was shown, None if there was none: cut out by the task's own rule."""
    return extract_answer(response, rule=task.grader_options.get("extraction", "tags"))


def into_groups(episodes: Sequence[Episode], size: int) -> list[Group]:
    """Consecutive episodes of one prompt, `size` of them to a group."""
    parts = [tuple(episodes[i : i + size]) for i in range(0, len(episodes), size)]
    return [Group(part[0].rollout.prompt, part) for part in parts]
