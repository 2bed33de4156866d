"""Rollout workers as Ray actors. Weights travel as one flat buffer through the object store."""

from __future__ import annotations

import os
import queue
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from latentpad.recipe.errors import MachineError, RecipeError
from latentpad.rollout.crew import Event
from latentpad.rollout.worker import RolloutWorker

if TYPE_CHECKING:
    from concurrent.futures import Future

    from latentpad.launch.cluster import Cluster
    from latentpad.recipe.schema import Recipe
    from latentpad.rollout import Sampling
    from latentpad.rollout.weights import Header, Weights
    from latentpad.rollout.worker import Identity

# How long the head of the cluster may take to answer, in seconds.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """A chunk: what to sample, and from which weights."""

    weights: Weights
    probe: tuple[tuple[int, ...], ...]
    prompts: list[tuple[int, ...]]
    seeds: list[int]
    sampling: Sampling


class RayCrew:
    """Starts actors, sends them chunks, and turns whatever Ray reports into events."""

    def __init__(
        self, cluster: Cluster, recipe: Recipe, trainer: Identity, worker_class: type[RolloutWorker] = RolloutWorker
    ) -> None:
        """With the cluster that the recipe asks for; workers must be like the `trainer`."""
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        assert recipe.rollout.ray is not None
        self._cluster, self._ray, self._section, self._trainer = cluster, cluster.ray, recipe.rollout.ray, trainer
        self._recipe = recipe.model_dump(exclude_none=True)
        if path := self._recipe["model"].get("path"):  # a worker has a working directory of its own
            self._recipe["model"]["path"] = os.path.abspath(path)  # noqa: PTH100 (symbolic links stay what they are)
        self._actor_class = _as_actor(self._ray, worker_class)
        self._actors: dict[int, Any] = {}
        self._who: dict[int, Identity] = {}
        self._sent: dict[tuple[int, str], tuple[Header, Any]] = {}  # the newest last
        self._pending: dict[int, Any] = {}

    def start(self, worker: int) -> None:
        """Create an actor; it may wait until the cluster has room for it."""
        section = self._section
        options = {"num_cpus": section.cpus, "num_gpus": section.gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = self._actor_class.options(**options).remote(self._recipe, section.cpus)
        self._actors[worker] = actor
        self._hear(worker, actor.describe.remote(), self._described)

    def send(self, worker: int, job: Job) -> None:
        """Give it a chunk, with a reference to its weights."""
        try:
            header, reference = self._reference(job.weights)
            found = self._actors[worker].sample.remote(
                header, reference, job.probe, job.prompts, job.seeds, job.sampling
            )
        except self._ray.exceptions.RayError as error:
            self.events.put(Event("lost", worker, _line(error)))
            return
        self._hear(worker, found, lambda w, reply: Event("done", w, reply))

    def ping(self, worker: int) -> None:
        """The actor answers in a thread of its own."""
        self._hear(worker, self._actors[worker].alive.remote(), lambda w, _: Event("alive", w))

    def kill(self, worker: int) -> None:
        """Ray ends the process, by force if it must."""
        actor = self._actors.pop(worker, None)
        self._who.pop(worker, None)
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def renew(self, job: Job) -> None:
        """Put the job's weights into the object store again."""
        self._sent.pop((job.weights.version, job.weights.hash), None)

    def trouble(self) -> str | None:
        """Whether the head is there; asked twice, for a loaded machine answers late."""
        if any(self._cluster.head_answers(patience) for patience in (_PATIENCE, 2 * _PATIENCE)):
            return None
        return f"the head of the Ray cluster at {self._cluster.head} does not answer any more"

    def name(self, worker: int) -> str:
        """A worker in words."""
        who = self._who.get(worker)
        return f"rollout worker {worker}" + ("" if who is None else f" (process {who.pid} on {who.host})")

    def keep(self, newest: int) -> None:
        """Forget all weights but the newest so many: the object store frees them."""
        for old in list(self._sent)[:-newest]:
            del self._sent[old]

    def _reference(self, weights: Weights) -> tuple[Header, Any]:
        key = (weights.version, weights.hash)
        if key not in self._sent:
            self._sent[key] = (weights.header, self._ray.put(weights.buffer))
        return self._sent[key]

    def _described(self, worker: int, found: Identity) -> Event:
        self._who[worker] = found
        if (unlike := self._trainer.unlike(found)) is not None:
            return Event("refused", worker, f"{self.name(worker)} {unlike}")
        return Event("ready", worker, {"host": found.host, "pid": found.pid})

    def _hear(self, worker: int, reference: Any, then: Any) -> None:
        self._pending[id(reference)] = reference
        reference.future().add_done_callback(partial(self._answered, worker, id(reference), then))

    def _answered(self, worker: int, number: int, then: Any, answer: Future[Any]) -> None:
        self._pending.pop(number, None)
        error = answer.exception()
        self.events.put(then(worker, answer.result()) if error is None else self._trouble_with(worker, error))

    def _trouble_with(self, worker: int, error: BaseException) -> Event:
        """What an exception of Ray's means: the worker is gone, what was sent is gone, or the code raised."""
        kinds = self._ray.exceptions
        cause = getattr(error, "cause", None) if isinstance(error, kinds.RayTaskError) else error
        if isinstance(error, kinds.ActorDiedError) and "creation task" in str(error) and (why := _refusal(error)):
            return Event("refused", worker, why)
        if isinstance(cause, kinds.ObjectLostError | kinds.ObjectFetchTimedOutError):
            return Event("resend", worker, _line(cause))
        if isinstance(cause, kinds.RayActorError | kinds.ActorUnavailableError | kinds.WorkerCrashedError):
            return Event("lost", worker, _line(cause))
        if isinstance(cause, MachineError | RecipeError):
            return Event("refused", worker, f"{self.name(worker)}: {cause}")
        return Event("failed", worker, _line(cause if cause is not None else error))


def _as_actor(ray: Any, worker_class: type[RolloutWorker]) -> Any:
    """The class as an actor whose signs of life do not wait for its chunks."""

    class Actor(worker_class):  # type: ignore[misc, valid-type]
        alive = ray.method(concurrency_group="pulse")(worker_class.alive)

    Actor.__name__ = Actor.__qualname__ = worker_class.__name__
    return ray.remote(concurrency_groups={"pulse": 1})(Actor)


def _refusal(error: BaseException) -> str | None:
    """The line of our own error out of the story that Ray tells of a failed start."""
    for line in reversed(str(error).splitlines()):
        name, _, rest = line.strip().partition(": ")
        if name.rpartition(".")[2] in ("RecipeError", "MachineError", "SyncError"):
            return rest
    return None


def _line(error: BaseException) -> str:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[0] if said else 'no reason given'}"
