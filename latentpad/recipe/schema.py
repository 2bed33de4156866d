"""What a recipe may say: strict pydantic models, each key with its meaning. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from latentpad.recipe.method_schema import (
    ExpertIterationSection,
    PretrainSection,
    PromptingSection,
    SupervisedSection,
)
from latentpad.recipe.rl_schema import HealthSection, RLSection
from latentpad.recipe.rollout_schema import RolloutSection
from latentpad.recipe.section import Section


class Component(BaseModel):
    """Something from a table (`task`, `algorithm`): its name, or `package.module:Class`, and its own options."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name; checked by the component itself."""
        return dict(self.model_extra or {})


class ScratchSection(Section):
    """A causal language model from scratch: any decoder of transformers that takes these sizes.

    `nope_layers` get no positional encoding (NoPE, Kazemnejad et al. 2023): numbers from 0, or `all`. Only an
    architecture that knows such layers takes it: `smollm3`.
    """

    architecture: str = "llama"
    hidden_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    nope_layers: list[Annotated[int, Field(ge=0)]] | Literal["all"] | None = None

    @model_validator(mode="after")
    def _nope_layers_exist(self) -> Self:
        if self.nope_layers is None:
            return self
        if self.architecture != "smollm3":
            raise ValueError(f"'nope_layers' needs 'architecture: smollm3'; {self.architecture!r} has no such layers")
        if self.nope_layers != "all" and any(layer >= self.layers for layer in self.nope_layers):
            raise ValueError(f"'nope_layers' {self.nope_layers}: layers are numbered 0 to {self.layers - 1}")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads or self.hidden_size // self.heads % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads} (rotary positions)"
            )
        return self


class LoraSection(Section):
    """LoRA (Hu et al. 2021) through peft on all linear layers but the output head."""

    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)


class ModelSection(Section):
    """The policy: `path` to a checkpoint in the transformers format, or `scratch`. Full fine-tuning unless `lora`.

    `quantisation: nf4` keeps the frozen weights in 4 bits (QLoRA, Dettmers et al. 2023: NF4 with double quantisation,
    by bitsandbytes) under a LoRA adapter in full precision. It saves memory, not time.
    """

    path: str | None = None
    scratch: ScratchSection | None = None
    lora: LoraSection | None = None
    quantisation: Literal["nf4"] | None = None

    @model_validator(mode="after")
    def _quantised_under_lora(self) -> Self:
        if self.quantisation is not None and (self.lora is None or self.path is None):
            raise ValueError("'quantisation' keeps frozen weights in 4 bits: it needs 'path' and 'lora'")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give exactly one of 'path' (a checkpoint) and 'scratch' (sizes of a new model)")
        return self


class TrainingSection(Section):
    """Optimizer steps, common to all methods. AdamW (Loshchilov & Hutter 2019), or Muon for the matrices.

    `micro_batch_tokens` bounds the padded tokens of one forward pass; it cannot change the gradient. The 8-bit
    optimizers (Dettmers et al. 2022, by bitsandbytes) keep their state in one byte a number; `paged_adamw_8bit` lets a
    GPU move it to the host. `precision: bf16` computes forward passes in bfloat16 (autocast); trained weights, their
    gradients and the optimizer stay in float32, frozen weights under an adapter are held in bfloat16.
    `activation_checkpointing` computes activations anew in the backward pass: less memory, about a third more time.
    """

    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    micro_batch_tokens: int = Field(default=16384, gt=0)
    checkpoint_every: int = Field(gt=0)
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "lion_8bit"] | None = None
    precision: Literal["fp32", "bf16"] | None = None
    activation_checkpointing: bool | None = None


class EvaluationSection(Section):
    """Held-out problems per cell (a cell that has fewer is evaluated whole); `beyond` names further cells to report.

    `split` is `validation` while you choose between settings, so that `test` stays unseen. With `pass_at` k the first
    `pass_problems` of each cell get k responses each at temperature 1, and count as right if any of them is (pass@k).
    With `every` N the trained cells are also evaluated after every N steps of training, greedily, on the first
    `every_problems` of each: accuracy against what was spent.
    """

    split: Literal["validation", "test"] = "test"
    problems: int = Field(gt=0, le=20_000)
    beyond: list[str] = Field(default_factory=list)
    max_new_tokens: int = Field(gt=0)
    pass_at: int | None = Field(default=None, gt=1)
    pass_problems: int | None = Field(default=None, gt=0)
    every: int | None = Field(default=None, gt=0)
    every_problems: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _every_keys_go_together(self) -> Self:
        if (self.every is None) != (self.every_problems is None):
            raise ValueError("'every' (steps) and 'every_problems' (problems a cell) go together")
        return self

    @model_validator(mode="after")
    def _pass_keys_go_together(self) -> Self:
        if (self.pass_at is None) != (self.pass_problems is None):
            raise ValueError("'pass_at' (responses a problem) and 'pass_problems' (problems a cell) go together")
        return self


class SandboxSection(Section):
    """How this machine contains programs that a policy or a data set has written; it cannot change a verdict.

    `min_tier` refuses to start where less contains them (`full` is seccomp and Landlock, `closed` seccomp alone).
    `slots` programs run at a time (0: one a core, at most 8). `allow_unsafe` is the sentence that the refusal names.
    """

    backend: Literal["auto", "local", "bwrap", "remote"] = "auto"
    min_tier: Literal["full", "closed"] = "closed"
    allow_unsafe: str = ""
    slots: int = Field(default=0, ge=0)
    python: str = ""
    remote_url: str = ""


_SECTIONS_OF = {
    "pretrain": {"pretrain"},
    "supervised": {"supervised"},
    "rl": {"rl", "algorithm"},
    "expert_iteration": {"expert_iteration"},
    "prompt": {"prompting"},
}


# What a run says of training where there is none.
_NO_TRAINING = {"steps": 0, "learning_rate": 1.0, "checkpoint_every": 1}


class Recipe(Section):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    method: Literal["pretrain", "supervised", "rl", "expert_iteration", "prompt"]
    seed: int = Field(default=0, ge=0)
    task: Component
    format: str
    scratchpad: Literal["free", "empty"] = "free"
    model: ModelSection
    rollout: RolloutSection
    training: TrainingSection
    evaluation: EvaluationSection
    pretrain: PretrainSection | None = None
    supervised: SupervisedSection | None = None
    rl: RLSection | None = None
    algorithm: Component | None = None
    expert_iteration: ExpertIterationSection | None = None
    prompting: PromptingSection | None = None
    health: HealthSection | None = None
    sandbox: SandboxSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _prompting_trains_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("method") != "prompt":
            return data
        none, given = TrainingSection.model_validate(_NO_TRAINING), data.get("training")
        if given is not None and TrainingSection.model_validate(given) != none:
            raise ValueError(
                "section 'training' is not used by method 'prompt': remove it, or where it is shared by all arms of an "
                "experiment say 'training: null' in this one"
            )
        return {**data, "training": _NO_TRAINING}

    @model_validator(mode="after")
    def _sections_fit_method(self) -> Self:
        wanted = _SECTIONS_OF[self.method]
        for section in sorted(set().union(*_SECTIONS_OF.values())):
            given = getattr(self, section) is not None
            if given and section not in wanted:
                raise ValueError(f"section '{section}' is not used by method '{self.method}': remove it")
            if section in wanted and not given:
                raise ValueError(f"method '{self.method}' needs a section '{section}'")
        if self.method != "rl" and self.health is not None:
            raise ValueError(f"section 'health' is not used by method '{self.method}': remove it")
        if self.training.steps == 0 and self.method != "prompt":
            raise ValueError(f"'training.steps' 0: expected 1 or more: method {self.method!r} trains")
        if self.evaluation.every is not None and self.method == "prompt":
            raise ValueError("'evaluation.every' is not used by method 'prompt': nothing is trained; remove it")
        for key in self.rollout.of_training_alone if self.method != "rl" else ():
            raise ValueError(f"'rollout.{key}' is not used by method '{self.method}': remove it")
        if self.method == "pretrain" and self.model.lora is not None:
            raise ValueError("method 'pretrain' trains all weights: remove 'model.lora'")
        if self.method != "pretrain" and self.training.matrix_learning_rate is not None:
            raise ValueError("'training.matrix_learning_rate' (Muon) is used by method 'pretrain' only: remove it")
        return self

    @property
    def rl_section(self) -> RLSection:
        """The `rl` section of an RL recipe."""
        assert self.rl is not None
        return self.rl


class ArmSection(BaseModel):
    """One arm of an experiment: a recipe's keys, over those of `shared` or of the arm that it is `like`."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, populate_by_name=True)

    start_from: str | None = Field(default=None, alias="from")
    like: str | None = None
    description: str = ""

    @property
    def keys(self) -> dict[str, Any]:
        """The recipe keys that this arm sets."""
        return dict(self.model_extra or {})


class PublishedSection(Section):
    """What others have reported for some cells: shares from `low` to `high`, drawn as a band beside the arms."""

    label: str
    cells: list[str] = Field(min_length=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _low_is_lower(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"'low' {self.low} is above 'high' {self.high}")
        return self


class Experiment(Section):
    """Arms x seeds that share one base.

    The report's first sentence speaks of the cell `headline`, unless it is given of the last trained one.
    """

    experiment: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    shared: dict[str, Any]
    published: list[PublishedSection] = Field(default_factory=list)
    headline: str | None = None
    arms: dict[str, ArmSection] = Field(min_length=1)
