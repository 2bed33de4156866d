"""What a recipe may say of the methods other than RL: what is shown, what is kept, what is asked."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from latentpad.recipe.section import Section


class PretrainSection(Section):
    """Next-token prediction on documents, of which a share shows a worked scratchpad and the rest state the answer.

    Problems come from `cells` alike (default: all of the task's); worked ones from `worked_cells` (default: `cells`). A
    `primitive_share` of the documents shows single steps of the task, such as copying, and no problem.
    """

    documents_per_step: int = Field(gt=0)
    scratchpad_share: float = Field(ge=0, le=1)
    cells: list[str] | None = Field(default=None, min_length=1)
    worked_cells: list[str] | None = Field(default=None, min_length=1)
    primitive_share: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.scratchpad_share + (self.primitive_share or 0) > 1:
            raise ValueError(
                f"'scratchpad_share' {self.scratchpad_share} and 'primitive_share' {self.primitive_share} are shares "
                "of the same documents: together at most 1"
            )
        return self


class SupervisedSection(Section):
    """TRL's `SFTTrainer`, loss on the response only. Problems come from `cells` alike (default: all of the task's).

    `target` is what is taught: the answer after a gold `scratchpad` (Nye et al. 2021); the `answer` alone; the answer
    after `filler`, as many tokens as the gold scratchpad has, all of them the token `filler` (Pfau et al. 2024); or a
    `mixture` (Kim et al. 2023, CoT Collection): a `rationale_share` of the examples shows a rationale before the
    answer, taken from only `rationales` different problems if that is given, and the others the answer alone. A
    rationale that does not lead to the gold answer is never taught.
    """

    target: Literal["scratchpad", "answer", "filler", "mixture"]
    examples_per_step: int = Field(gt=0)
    cells: list[str] | None = Field(default=None, min_length=1)
    filler: str | None = Field(default=None, min_length=1)
    rationale_share: float | None = Field(default=None, gt=0, le=1)
    rationales: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _keys_fit_target(self) -> Self:
        if (self.target == "filler") != (self.filler is not None):
            raise ValueError("'target: filler' and 'filler' (the token to fill with) go together")
        if (self.target == "mixture") != (self.rationale_share is not None):
            raise ValueError("'target: mixture' and 'rationale_share' go together")
        if self.rationales is not None and self.target != "mixture":
            raise ValueError("'rationales' is of 'target: mixture': remove it")
        return self


class ExpertIterationSection(Section):
    """Sample, keep what is right, fine-tune on it, and again: learning from one's own right responses alone.

    In each of `rounds` rounds `prompts_per_round` problems are answered `samples_per_prompt` times at
    `rollout.temperature`; of the right responses to a problem, equal ones left out, at most `keep_per_prompt` are kept;
    the policy is fine-tuned on them, `rows_per_step` a step. `restart` says from where: from the `base` each round
    (STaR, Zelikman et al. 2022; ReST-EM, Singh et al. 2023), or going on from the `previous` round. One round is
    rejection fine-tuning (Yuan et al. 2023). `training.steps` is the sum over all rounds, each with `growth` times the
    steps of the round before. With `hint`, a problem without a right response is asked once more with its gold answer
    in the question, and what is right then is kept as an answer to the question without it (STaR's rationalisation):
    a template with {question} and {answer}.
    """

    rounds: int = Field(gt=0)
    prompts_per_round: int = Field(gt=0)
    samples_per_prompt: int = Field(gt=0)
    keep_per_prompt: int | None = Field(default=None, gt=0)
    rows_per_step: int = Field(gt=0)
    cells: list[str] | None = Field(default=None, min_length=1)
    restart: Literal["base", "previous"] = "base"
    growth: float = Field(default=1.0, ge=1)
    hint: str | None = None

    @model_validator(mode="after")
    def _hint_shows_the_answer(self) -> Self:
        if self.hint is not None and not {"{question}", "{answer}"} <= set(re.findall(r"{[^{}]*}", self.hint)):
            raise ValueError(f"'hint' {self.hint!r}: expected a template with {{question}} and {{answer}}")
        return self


class PromptingSection(Section):
    """Nothing is trained: the model is shown worked examples in its prompt (Wei et al. 2022), for pretrained models.

    `shots` examples from the train split stand before each question, in one of the styles: the `answer` alone, the
    answer after its gold `scratchpad`, after as much `filler` (dots if not given), or before it
    (`scratchpad_after_answer`). Each of `draws` draws of examples is evaluated on its own.
    """

    shots: int = Field(ge=0)
    style: Literal["answer", "scratchpad", "filler", "scratchpad_after_answer"]
    draws: int = Field(default=3, gt=0)
    separator: str = "\n\n"
    filler: str = "."
