"""Runs of an experiment that failed, or wait for one that did: the others go on without them."""

from __future__ import annotations

from dataclasses import dataclass, field

from latentpad.experiments.one_run import BAD_INPUT, BUG, CANNOT


@dataclass
class Failures:
    """By arm and seed, in the order in which it was found out.

    Attributes:
        failed: exit code and why.
        skipped: the arm whose run it would have started from.
    """

    failed: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    skipped: dict[tuple[str, int], str] = field(default_factory=dict)

    def __contains__(self, run: tuple[str, int]) -> bool:
        return run in self.failed or run in self.skipped

    def status(self, arm: str) -> str:
        """`done`, or what is missing of an arm and why."""
        lines = [f"seed {seed} failed: {line}" for (name, seed), (_, line) in self.failed.items() if name == arm]
        waits = [f"seed {seed} not run: {on} failed" for (name, seed), on in self.skipped.items() if name == arm]
        return "; ".join(lines + waits) or "done"

    def end(self, runs: int) -> tuple[int, str] | None:
        """Exit code and line of an experiment of so many runs that does not end well."""
        if not self.failed:
            return None
        also = f", {len(self.skipped)} not run that start from them" if self.skipped else ""
        (arm, seed), (code, line) = next(iter(self.failed.items()))
        return (
            code if code in (BAD_INPUT, CANNOT) else BUG,
            f"{len(self.failed)} of {runs} runs failed{also}; the first: {arm}, seed {seed}: {line}; the same command "
            "goes on",
        )
