"""What a recipe may say of `method: rl`: sampling a step, what holds the policy, when to worry."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from latentpad.recipe.section import Section


class KLSection(Section):
    """A pull to a named reference: in the `loss` (estimator k2 or k3) or in the `reward` (k1), never in both.

    `reference` is the policy before the first step (`base`), one retaken every `refresh_every` steps (`moving`), or the
    path of a checkpoint of a run that trains the same weights. With `target` (nats a token) `coef` is only the
    first value: it grows while KL is above the target and shrinks below (Ziegler et al. 2019).
    """

    coef: float = Field(gt=0)
    place: Literal["loss", "reward"] = "loss"
    estimator: Literal["k2", "k3"] | None = None
    reference: str = "base"
    refresh_every: int | None = Field(default=None, gt=0)
    target: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _no_idle_key(self) -> Self:
        if self.place == "reward" and self.estimator is not None:
            raise ValueError("'estimator' is of KL in the loss; in the reward it is always k1: remove it")
        if (self.reference == "moving") != (self.refresh_every is not None):
            raise ValueError("'refresh_every' goes with 'reference: moving', and that needs it")
        return self


class LadderSection(Section):
    """A curriculum: prompts come from `rungs`, easy to hard, up to the frontier, which starts at the first.

    A `frontier_share` of the prompts is from the frontier, the rest from the rungs below it alike. Where at least
    `promote_at` of the last `window` rollouts at the frontier were right, the next rung becomes the frontier.
    """

    rungs: list[str] = Field(min_length=2)
    promote_at: float = Field(default=0.8, gt=0, le=1)
    window: int = Field(default=256, gt=0)
    frontier_share: float = Field(default=0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _each_rung_once(self) -> Self:
        if len(set(self.rungs)) < len(self.rungs):
            raise ValueError(f"'rungs' {self.rungs}: each may be named once")
        return self


class RLSection(Section):
    """Policy gradient on final answers.

    Each step's prompts come from the task's cells in turn, or from `cells`, where one may be named more than once so
    that it comes up more often, or from a `ladder`. They are new in every step, or with `problems` N drawn again and
    again from N of each cell (among them one may come up twice). Each step's rollouts are learned from `epochs` times,
    each time in `minibatches` optimizer steps.

    `signal` is what the advantages are made of: each rollout's own `answer`, or a control. `random` deals the same
    rewards out among the rollouts of the step (same rate, no information). `shuffled` grades a group against the gold
    answer of another train problem of its cell (false labels). `format` pays for every answer that can be read, right
    or wrong. With `vote` an answer is right if it is the one that its group gave most often (self-training without
    verification). `process` is the upper control and no answer-only method: half the reward is for a scratchpad whose
    steps a solver accepts. Whatever the signal, the metric `reward` is what the grader gave, and alarms, and what they
    do, go by that: let `health.action` be `warn` for a control without it. So does a ladder, but that of `vote` climbs
    by votes too. With `half_length` N a right answer after a scratchpad of n tokens earns N / (N + n), and what a
    control pays shrinks alike: Nye et al. (2021) suggest to reward inversely to the scratchpad's length.
    """

    prompts_per_step: int = Field(gt=0)
    group_size: int = Field(gt=1)
    cells: list[str] | None = Field(default=None, min_length=1)
    ladder: LadderSection | None = None
    signal: Literal["answer", "random", "vote", "shuffled", "format", "process"] = "answer"
    half_length: int | None = Field(default=None, gt=0)
    epochs: int = Field(default=1, gt=0)
    minibatches: int = Field(default=1, gt=0)
    problems: int | None = Field(default=None, gt=0)
    kl: KLSection | None = None
    entropy_coef: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _one_source_of_cells(self) -> Self:
        if self.cells is not None and self.ladder is not None:
            raise ValueError("give 'cells' or a 'ladder', not both")
        return self


class HealthSection(Section):
    """Alarms while an RL run trains, and what they do: `warn` in words, `stop`, or `roll_back`.

    Steps are judged by means over `window` of them. Alarms that can stop or roll back: the reward falls below
    `reward_drop` times its best, the gradient norm (geometric mean) rises above `gradient_rise` times its median
    before, a number is not finite. Rolling back takes up the newest checkpoint from before the trouble with learning
    rates times `step_factor`, at most `max_roll_backs` times, then stops. The others only warn: `min_entropy` (nats a
    token), `min_live_groups` and `max_truncated` (shares), `max_mismatch_kl` (sampler to learner at equal weights).
    """

    action: Literal["warn", "stop", "roll_back"] = "warn"
    window: int = Field(default=5, gt=0)
    reward_drop: float = Field(default=0.5, ge=0, lt=1)
    gradient_rise: float = Field(default=3.0, gt=1)
    min_entropy: float = Field(default=0.002, ge=0)
    min_live_groups: float = Field(default=0.05, ge=0, le=1)
    max_truncated: float = Field(default=0.5, ge=0, le=1)
    max_mismatch_kl: float = Field(default=0.001, gt=0)
    step_factor: float = Field(default=0.5, gt=0, lt=1)
    max_roll_backs: int = Field(default=3, gt=0)
