"""What a recipe may say of sampling while training: by which engine, where, and how far ahead of the learner."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from latentpad.recipe.section import Section

# Sampling that leaves a part of the distribution out.
_TRUNCATING = ("top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "repetition_penalty")


class RaySection(Section):
    """Rollout workers on a Ray cluster. None of it changes a number: chunks are cut by the recipe, not by workers.

    Each of `workers` runs the engine that `runs` names, on `cpus` cores and `gpus` GPUs of its own (the numbers that it
    computes with are those of so many threads). Without an `address` the cluster is a private one in this machine, on
    the loopback only; `auto` is the one that this machine or this job is part of; else `host:port` of its head.

    A worker that gives no sign of life for `silence_seconds`, or does not answer a request in `request_seconds`, is
    killed and another is started in its place, at most `restarts` of them in an hour; what it had to do is given to
    others. `rewards: tasks` also grades on the cluster, in `workers` sandboxes of its nodes.
    """

    workers: int = Field(default=1, gt=0)
    runs: Literal["local", "vllm"] = "local"
    cpus: int = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    address: str | None = None
    rewards: Literal["here", "tasks"] = "here"
    request_seconds: float = Field(default=600.0, gt=0)
    silence_seconds: float = Field(default=30.0, gt=0)
    start_seconds: float = Field(default=300.0, gt=0)
    restarts: int = Field(default=20, ge=0)

    @model_validator(mode="after")
    def _address_is_one(self) -> Self:
        host, _, port = (self.address or "").rpartition(":")
        if self.address not in (None, "auto") and not (host and port.isdigit()):
            raise ValueError(f"'address' {self.address!r}: expected auto, or host:port of the cluster's head")
        return self


class RolloutSection(Section):
    """How responses are sampled while training.

    `chunk_size` rollouts are sampled together (whole groups); it is fixed here because the shape of a batch can change
    the last bits of its logits. The engine is `local` (transformers, in this process), `vllm` (in this process), or
    `ray`: workers on a cluster.

    With `max_staleness` k the rollouts of a step are sampled by the policy of k steps before, so that sampling goes on
    while the learner learns; how old they are is fixed by k, not by who is quick, so that runs repeat. The loss is then
    corrected: every token is weighted by how much likelier the learner makes it than the sampler did, `truncated` to at
    most `correction_cap`, or `masked` to 0 outside of [1 / correction_cap, correction_cap].
    """

    engine: Literal["local", "vllm", "ray"] = "local"
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(gt=0)
    chunk_size: int = Field(default=512, gt=0)
    max_staleness: int | None = Field(default=None, ge=0, le=8)
    correction: Literal["truncated", "masked"] | None = None
    correction_cap: float | None = Field(default=None, gt=1)
    ray: RaySection | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_go_together(cls, data: Any) -> Any:
        """What is stale is corrected, and a correction has a cap: written out, so that the run folder says it."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for key in _TRUNCATING:
            if key in data:
                raise ValueError(
                    f"'{key}' samples from another distribution than the learner's, so that ratios to the sampler are "
                    "wrong (their mean is the mass that was kept): remove it; 'temperature' is applied on both sides"
                )
        if isinstance(data.get("max_staleness"), int) and data["max_staleness"] > 0:
            data["correction"] = data.get("correction") or "truncated"
        if data.get("correction") is not None and data.get("correction_cap") is None:
            data["correction_cap"] = 2.0
        if data.get("engine") == "ray" and data.get("ray") is None:
            data["ray"] = {}
        return data

    @model_validator(mode="after")
    def _no_idle_key(self) -> Self:
        if self.ray is not None and self.engine != "ray":
            raise ValueError(f"section 'ray' is not used by engine {self.engine!r}: remove it, or set engine: ray")
        if self.correction_cap is not None and self.correction is None:
            raise ValueError("'correction_cap' needs 'correction: truncated' or 'masked'")
        return self

    @property
    def samples_with(self) -> str:
        """What draws the tokens: `local` or `vllm`."""
        return self.ray.runs if self.ray is not None else self.engine

    @property
    def staleness(self) -> int:
        """How many steps older than the learner the sampling policy is."""
        return self.max_staleness or 0

    @property
    def of_training_alone(self) -> list[str]:
        """Keys that are set and that only a run that samples while it trains uses."""
        named = {"engine": self.engine != "local", "max_staleness": self.staleness, "correction": self.correction}
        return [key for key, given in named.items() if given]
