"""Alarms on the metrics of an RL run: what is wrong, in words, and whether it is worth stopping for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, geometric_mean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from latentpad.recipe.rl_schema import HealthSection

# Judged by means over the window; metrics beyond these are only checked to be finite.
WATCHED = ("reward", "grad_norm", "entropy", "live_groups", "truncated", "scratchpad_tokens")
# Of these the best mean over a window is remembered.
RECORDED = ("reward", "scratchpad_tokens")
# A best reward below this is noise near zero: there is nothing yet to fall from.
LEAST_REWARD = 0.1
# The share of its best that the reward must keep for a checkpoint to be one to roll back to.
GOOD_SHARE = 0.9
# Where the reward is at least this, all groups are right: few live ones are success.
SOLVED = 0.95
# Scratchpads of this many tokens or more have something to lose; a tenth of it left is a collapse.
LEAST_SCRATCHPAD = 5.0
SCRATCHPAD_DROP = 0.1


@dataclass(frozen=True)
class Alarm:
    """One thing that is wrong: `message` says it in a line, with the numbers; `severe` ones may end the run."""

    name: str
    message: str
    severe: bool


class Health:
    """Judges each step's metrics by means over `window` steps; a metric that is absent raises no alarm.

    An alarm is told when it begins, and again only after it has ended. A severe one that is to stop the run or roll it
    back is told at every step while it lasts, so that a resumed run cannot pass it by.
    """

    def __init__(self, section: HealthSection) -> None:
        self._section = section
        self._recent: dict[str, list[float]] = {name: [] for name in WATCHED}  # the last `window` values
        self._best: dict[str, float] = dict.fromkeys(RECORDED, 0.0)  # the best mean over a full window so far
        self._earlier_norms: list[float] = []  # gradient norms from before the window
        self._frontier = 0.0
        self._lasting: dict[str, bool] = {}  # the alarms that have not ended, and whether they are severe

    def observe(self, step: int, values: Mapping[str, float]) -> list[Alarm]:
        """The alarms to tell of after a step, counted from 1.

        `frontier` is the ladder's index that the step's prompts were drawn with: when it changes, the reward falls for
        good reason and is judged anew.
        """
        if (frontier := values.get("frontier", self._frontier)) != self._frontier:
            self._frontier = frontier
            self._recent["reward"], self._best["reward"] = [], 0.0
        for name in WATCHED:
            if name in values and math.isfinite(values[name]):
                self._take(name, values[name])
        alarms = [Alarm(name, f"step {step}: {text}", severe=True) for name, text in self._severe_troubles(values)]
        alarms += [Alarm(name, f"step {step}: {text}", severe=False) for name, text in self._mild_troubles(values)]
        acts = self._section.action != "warn"
        told = [alarm for alarm in alarms if alarm.name not in self._lasting or (alarm.severe and acts)]
        self._lasting = {alarm.name: alarm.severe for alarm in alarms}
        return told

    @property
    def good(self) -> bool:
        """Whether a checkpoint written now is one to roll back to: no severe alarm, nor half the way to one.

        That is, a window of rewards is known and near its best, and the gradient norm has not risen by the root of
        `gradient_rise`.
        """
        rise = self._norm_rise()
        if any(self._lasting.values()) or (rise is not None and rise > math.sqrt(self._section.gradient_rise)):
            return False
        reward, best = self._mean("reward"), self._best["reward"]
        if reward is None:  # too early to tell, unless nobody logs a reward
            return not self._recent["reward"]
        return best < LEAST_REWARD or reward >= GOOD_SHARE * best

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, like JSON."""
        return {
            "recent": {name: list(values) for name, values in self._recent.items()},
            "best": dict(self._best),
            "earlier_norms": list(self._earlier_norms),
            "frontier": self._frontier,
            "lasting": dict(self._lasting),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._recent = {name: list(state["recent"][name]) for name in WATCHED}
        self._best = {name: state["best"][name] for name in RECORDED}
        self._earlier_norms = list(state["earlier_norms"])
        self._frontier = state["frontier"]
        self._lasting = dict(state["lasting"])

    def _take(self, name: str, value: float) -> None:
        if name == "grad_norm" and value == 0:
            return  # no group was live, so nothing was learned: such steps would pull the median to 0
        recent = self._recent[name]
        recent.append(value)
        if len(recent) > self._section.window:
            oldest = recent.pop(0)
            if name == "grad_norm":
                self._earlier_norms.append(oldest)
        mean = self._mean(name)
        if name in RECORDED and mean is not None:
            self._best[name] = max(self._best[name], mean)

    def _mean(self, name: str) -> float | None:
        """The mean over the window, once it is full."""
        recent = self._recent[name]
        return fmean(recent) if len(recent) == self._section.window else None

    def _norm_rise(self) -> float | None:
        """The gradient norm over the window by its median before it, once twice as many steps are before it.

        The mean over the window is the geometric one: a single spike, which clipping takes care of, is no trouble.
        """
        recent, earlier = self._recent["grad_norm"], self._earlier_norms
        if len(earlier) < 2 * self._section.window:
            return None
        return geometric_mean(recent) / median(earlier)

    def _severe_troubles(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """The name of each severe alarm that rings, and its message."""
        window, drop, rise = self._section.window, self._section.reward_drop, self._section.gradient_rise
        broken = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if broken:
            yield "not_finite", ", ".join(broken)
        reward, best = self._mean("reward"), self._best["reward"]
        if reward is not None and best >= LEAST_REWARD and reward < drop * best:
            limit = f"{drop:g} times its best, {best:.3g}"
            yield "reward_collapse", f"the mean reward of the last {window} steps is {reward:.3g}, below {limit}"
        times = self._norm_rise()
        if times is not None and times > rise:
            usual = f"{times:.3g} times its median before them, {median(self._earlier_norms):.3g}"
            yield "gradient_rise", f"the gradient norm of the last {window} steps is {usual}: above {rise:g} times"

    def _mild_troubles(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """The name of each alarm that rings and only warns, and its message."""
        section, over = self._section, f"over the last {self._section.window} steps"
        entropy, live, truncated = self._mean("entropy"), self._mean("live_groups"), self._mean("truncated")
        if entropy is not None and entropy < section.min_entropy:
            yield "entropy", f"entropy was {entropy:.3g} nats a token {over}, below {section.min_entropy:g}"
        if live is not None and live < section.min_live_groups and (self._mean("reward") or 0.0) < SOLVED:
            yield "live_groups", f"{live:.1%} of the groups taught anything {over}, below {section.min_live_groups:.1%}"
        if truncated is not None and truncated > section.max_truncated:
            yield (
                "truncated",
                f"{truncated:.1%} of the responses were cut off {over}, above {section.max_truncated:.1%}",
            )
        mismatch, most = values.get("mismatch_kl", 0.0), section.max_mismatch_kl
        if mismatch > most:
            yield "mismatch", f"sampler and learner are {mismatch:.3g} nats a token apart, above {most:g}"
        tokens, best = self._mean("scratchpad_tokens"), self._best["scratchpad_tokens"]
        if tokens is not None and best >= LEAST_SCRATCHPAD and tokens < SCRATCHPAD_DROP * best:
            yield "scratchpad_collapse", f"scratchpads had {tokens:.3g} tokens {over}, where their best was {best:.3g}"
