"""Arms x seeds of one experiment side by side on a Ray cluster: each run is a process of its own on some node.

A run starts when the run that it starts from is done. One that is lost with its node or process is started again, from
its checkpoint; one that fails by itself takes with it those that start from it, and no others. Imports nothing heavy.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.experiments.ablate import check_all, declare, done_before, ready, run_folder, set_aside, write_summary
from latentpad.experiments.failures import Failures
from latentpad.experiments.one_run import BUG, CANNOT, DONE, LOG, STOPPED, Ended, Job, Runner, unseen
from latentpad.experiments.run import is_done
from latentpad.experiments.schedule import Schedule, State
from latentpad.launch.cluster import cluster
from latentpad.recipe.errors import MachineError, Stopped
from latentpad.training.interrupt import Stop, graceful_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from latentpad.launch.cluster import Cluster
    from latentpad.recipe.load import Arm, Plan
    from latentpad.recipe.schema import Recipe

AGAIN = 3
"""How often a run that was lost is started again."""
STOPPING = 300.0
"""Seconds for runs to leave their checkpoints."""
_PULSE, _HEAD = 0.5, 15.0  # seconds between looks at the runs, and at the head of the cluster
_STOPPED = "stopped; checkpoints are kept and the same command goes on"
_VISIBLE = 60.0  # seconds for a file of another node to be seen here
# Ends that come from outside: somebody stopped or killed the process, or memory ran out.
_LOST = (STOPPED, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Share:
    """How many runs at once, what each gets of the cluster, and which: None is a private one on this machine."""

    at_once: int
    cpus: int = 1
    gpus: float = 0.0
    address: str | None = None

    def __str__(self) -> str:
        gpus = f" --gpus {self.gpus:g}" if self.gpus else ""
        return f"--at-once {self.at_once} --cpus {self.cpus}{gpus}"


@dataclass
class _Live:
    """A run on the cluster: its actor, what is awaited of it, and how often it was lost."""

    recipe: Recipe
    lost: int
    actor: Any
    host: Any
    end: Any
    since: float = field(default_factory=time.monotonic)
    started: bool = False


def ablate_side_by_side(
    plan: Plan, out: Path, share: Share, *, command: str, say: Callable[[str], None], reuse: Sequence[Path] = ()
) -> Failures:
    """As `ablate`, with the same results, `share.at_once` runs at a time.

    Raises:
        RecipeError: something is wrong with an arm; nothing was run.
        MachineError: a package is missing, no such cluster, no node with so much room, or one that does not see `out`.
        Stopped: the user asked to stop; checkpoints were left.
    """
    runs = _Runs(plan, Path(os.path.abspath(out)), share, say)  # noqa: PTH100 (symbolic links stay what they are)
    declare(plan, out)
    runs.reuse(reuse)
    if runs.schedule.open:
        try:
            _run_all(runs, share, say)
        except SystemExit as end:  # of the handler of SIGTERM that Ray puts there while it starts
            raise Stopped(_STOPPED) from end
    failures = runs.failures()
    write_summary(plan, out, failures, command=command)
    return failures


def _run_all(runs: _Runs, share: Share, say: Callable[[str], None]) -> None:
    cpus, gpus = share.at_once * share.cpus, None if share.gpus else 0
    # The first hears signals until Ray puts handlers of its own in their place, the second from then on.
    with graceful_stop() as early, cluster(share.address, cpus=cpus, gpus=gpus) as joined, graceful_stop() as stop:
        stop.asked = early.asked
        with _seen_by_all(joined, runs.out, share, say) as marker:
            runs.run(joined, marker, stop)


@contextmanager
def _seen_by_all(joined: Cluster, out: Path, share: Share, say: Callable[[str], None]) -> Iterator[Path]:
    """A file in the folder of the experiment that every node sees on which runs have room."""
    nodes = [n for n in joined.nodes() if n.cpus >= share.cpus and n.gpus >= share.gpus]
    if not nodes:
        raise MachineError(f"no node of the cluster has {share.cpus} CPUs and {share.gpus:g} GPUs for a run")
    rooms = [min(n.cpus // share.cpus, n.gpus // share.gpus if share.gpus else n.cpus) for n in nodes]
    if sum(rooms) < share.at_once:
        say(f"the cluster has room for {int(sum(rooms))} of {share.at_once} runs at once")
    out.mkdir(parents=True, exist_ok=True)
    marker = out / f".seen-{secrets.token_hex(8)}"
    marker.touch()
    try:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        look = joined.ray.remote(num_cpus=0, max_retries=1)(_sees)
        asked = [look.options(scheduling_strategy=On(n.id, soft=False)).remote(str(marker)) for n in nodes]
        for node, answer in zip(nodes, asked, strict=True):
            with suppress(joined.ray.exceptions.RayError):  # lost since: nothing runs there
                if not joined.ray.get(answer):
                    raise MachineError(unseen(node.host, out))
        yield marker
    finally:
        marker.unlink(missing_ok=True)


def _sees(marker: str) -> bool:
    return Path(marker).is_file()


class _Runs:
    """The runs of one experiment: what they need, where they stand, and what is said of them."""

    def __init__(self, plan: Plan, out: Path, share: Share, say: Callable[[str], None]) -> None:
        self._runs: list[tuple[int, Arm]] = check_all(plan)
        self.out, self._share, self._say = out, share, say
        number = {(seed, arm.name): i for i, (seed, arm) in enumerate(self._runs)}
        parents = [None if arm.start_from is None else number[seed, arm.start_from] for seed, arm in self._runs]
        self.schedule = Schedule(parents, share.at_once)
        self._keys: dict[tuple[str, int], str] = {}
        self._live: dict[int, _Live] = {}
        self._failed: dict[int, Ended] = {}

    def _place(self, run: int) -> str:
        seed, arm = self._runs[run]
        return f"[{run + 1}/{len(self._runs)}] {arm.name}, seed {seed}"

    def _folder(self, run: int) -> Path:
        seed, arm = self._runs[run]
        return run_folder(self.out, arm.name, seed)

    def _ready(self, run: int) -> tuple[Recipe, str]:
        seed, arm = self._runs[run]
        recipe, key = ready(self.out, arm, seed, self._keys)
        self._keys[arm.name, seed] = key
        return recipe, key

    def reuse(self, others: Sequence[Path]) -> None:
        """Mark what is done already, parents before children."""
        for run in range(len(self._runs)):
            if run in self.schedule.waiting() and (
                there := done_before(self._folder(run), self._ready(run)[1], others)
            ):
                self.schedule.mark(run, State.DONE)
                self._say(f"{self._place(run)}: {there}")

    def run(self, joined: Cluster, marker: Path, stop: Stop) -> None:
        """Start runs and hear of them until all have ended."""
        ray, asked_head = joined.ray, time.monotonic()
        while self.schedule.open:
            if stop.requested:
                self._stop_all(ray)
                raise Stopped(_STOPPED)
            for run in self.schedule.startable():
                recipe, key = self._ready(run)
                set_aside(self._folder(run), key)
                self.schedule.mark(run, State.RUNNING)
                self._start(joined, marker, run, recipe, lost=0)
            self._hear(joined, marker)
            if time.monotonic() - asked_head > _HEAD:
                if not any(joined.head_answers(patience) for patience in (5.0, 10.0)):
                    raise MachineError(
                        f"the head of the Ray cluster at {joined.head} does not answer any more; what was "
                        "checkpointed is kept: the same command goes on"
                    )
                asked_head = time.monotonic()

    def _start(self, joined: Cluster, marker: Path, run: int, recipe: Recipe, *, lost: int) -> None:
        seed, arm = self._runs[run]
        data, parent_key = recipe.model_dump(exclude_none=True), ""
        if arm.start_from is not None:
            parent_key = self._keys[arm.start_from, seed]
        elif recipe.model.path is not None:
            parent_key, data["model"]["path"] = recipe.model.path, os.path.abspath(recipe.model.path)  # noqa: PTH100
        job = Job(
            recipe=data,
            parent_key=parent_key,
            folder=str(self._folder(run)),
            marker=str(marker),
            directory=str(Path.cwd()),
            threads=os.environ.get("OMP_NUM_THREADS") or str(self._share.cpus),
            hides_gpus=not self._share.gpus,
            address=None if joined.private else str(joined.head),
            again=lost > 0,
        )
        options = {"num_cpus": self._share.cpus, "num_gpus": self._share.gpus, "max_restarts": 0, "max_concurrency": 3}
        actor = joined.ray.remote(Runner).options(**options).remote()
        self._live[run] = _Live(recipe, lost, actor, actor.host.remote(), actor.run.remote(job))

    def _hear(self, joined: Cluster, marker: Path) -> None:
        """Wait a moment for anything to happen."""
        ray = joined.ray
        awaited = [live.end if live.started else live.host for live in self._live.values()]
        ray.wait(awaited, timeout=_PULSE)
        for run, live in list(self._live.items()):
            try:
                if not live.started and _there(ray, live.host):
                    self._say(f"{self._place(run)}: started on {ray.get(live.host)}")
                    live.started, live.since = True, time.monotonic()
                if live.started and _there(ray, live.end):
                    self._ended(joined, marker, run, ray.get(live.end))
            except ray.exceptions.RayTaskError as error:
                self._ended(joined, marker, run, Ended(BUG, str(error).strip().splitlines()[-1]))
            except ray.exceptions.RayError as error:
                self._ended(joined, marker, run, Ended(-signal.SIGKILL, _why_lost(ray, error)))

    def _ended(self, joined: Cluster, marker: Path, run: int, ended: Ended) -> None:
        live = self._live.pop(run)
        joined.ray.kill(live.actor, no_restart=True)
        place = self._place(run)
        if ended.code == DONE and not self._seen_done(run):
            ended = Ended(CANNOT, f"it ended well, and {self._folder(run)} does not show it here")
        if ended.code == DONE:
            self._say(f"{place}: done in {time.monotonic() - live.since:.0f} s")
            self.schedule.mark(run, State.DONE)
        elif ended.code in _LOST and live.lost < AGAIN:
            self._say(f"{place}: lost ({ended.line}); started again, {live.lost + 1} of {AGAIN} times")
            self._start(joined, marker, run, live.recipe, lost=live.lost + 1)
        else:
            if ended.code in _LOST:
                ended = Ended(CANNOT, f"lost {live.lost + 1} times; {ended.line}")
            self._say(f"{place}: failed")
            self._failed[run] = ended
            self.schedule.mark(run, State.FAILED)

    def _seen_done(self, run: int) -> bool:
        """Files of other nodes may come late."""
        seed, arm = self._runs[run]
        deadline = time.monotonic() + _VISIBLE
        while not is_done(self._folder(run), self._keys[arm.name, seed]):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PULSE)
        return True

    def _stop_all(self, ray: Any) -> None:
        """Those that wait for room go at once; the others leave a checkpoint first."""
        running = [live for live in self._live.values() if live.started]
        self._say(f"stopping {len(running)} runs, which leave a checkpoint first (Ctrl-C again: at once)")
        for live in self._live.values():
            if live.started:
                live.actor.stop.remote()
            else:
                ray.kill(live.actor, no_restart=True)
        left, deadline = [live.end for live in running], time.monotonic() + STOPPING
        while left and time.monotonic() < deadline:
            left = ray.wait(left, num_returns=len(left), timeout=_PULSE)[1]
        for live in running:
            ray.kill(live.actor, no_restart=True)

    def failures(self) -> Failures:
        """What failed, said one by one, and what was not run for it."""
        found = Failures()
        for run, ended in sorted(self._failed.items()):
            seed, arm = self._runs[run]
            found.failed[arm.name, seed] = ended.code, f"{ended.line} (see {self._folder(run) / LOG})"
            self._say(f"{self._place(run)}: failed: {ended.line} (see {self._folder(run) / LOG})")
        for run, state in enumerate(self.schedule.states):
            if state is State.SKIPPED:
                seed, arm = self._runs[run]
                found.skipped[arm.name, seed] = str(arm.start_from)
        return found


def _there(ray: Any, reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _why_lost(ray: Any, error: Exception) -> str:
    """Ray tells a long story of every actor that is gone; only of one that never came is it worth hearing."""
    said = (str(error).strip().splitlines() or ["no reason given"])[0]
    gone = isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.ActorUnavailableError)
    return "its Ray worker or node is gone" if gone and "creation" not in said else f"{type(error).__name__}: {said}"
