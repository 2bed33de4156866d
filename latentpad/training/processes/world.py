"""All processes of a run: who there is, how they exchange what they found, and how they end together."""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.distributed import DistError, PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from latentpad.recipe.errors import MachineError
from latentpad.training.processes.watch import LEFT, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from latentpad.launch import Launch

T = TypeVar("T")
U = TypeVar("U")

# How long processes wait for the slowest (rollouts, rewards) before the run ends, in seconds.
PATIENCE = 3600.0
# The largest buffer that gradients are summed in, in numbers.
_BUCKET = 2**25


@dataclass(eq=False)
class World:
    """The processes of a run. Alone, every exchange gives back what was given.

    Exchanges wait for the slowest process outside of any collective operation, whose own time-out a slow reward would
    trip; they give up after `PATIENCE` and name who was missing.

    Attributes:
        rank: of this process; 0 writes to disk and speaks to the user.
        size: number of processes.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    _store: Any = None
    _meetings: int = field(default=0, init=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What every process gives, in order of rank."""
        if self.size == 1:
            return [value]
        self._meet()
        gathered: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(gathered, value)
        return gathered

    def from_leader(self, value: T) -> T:
        """What rank 0 gives."""
        return self.gather(value)[0]

    def any(self, flag: bool) -> bool:
        """Whether it is true of some process."""
        return any(self.gather(flag))

    def barrier(self) -> None:
        """Until every process is here."""
        self.gather(None)

    def same(self, value: object) -> bool:
        """Whether all processes give the same."""
        return len({str(given) for given in self.gather(value)}) == 1

    def spread(self, items: Sequence[U], work: Callable[[U], T]) -> list[T]:
        """The work on each item, in order: of `size` items this process does every one, all get all results."""
        mine = [work(item) for item in items[self.rank :: self.size]]
        parts = self.gather(mine)
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes; all must give the same parameters."""
        if self.size == 1:
            return
        bucket: list[torch.nn.Parameter] = []
        room = _BUCKET
        for parameter in parameters:
            if bucket and (parameter.numel() > room or bucket[0].dtype != parameter.dtype):
                _sum_bucket(bucket)
                bucket, room = [], _BUCKET
            bucket.append(parameter)
            room -= parameter.numel()
        if bucket:
            _sum_bucket(bucket)

    def _meet(self) -> None:
        """Wait until every process has come here, however long its rollouts and rewards took."""
        self._meetings += 1
        keys = [f"meet/{self._meetings}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], "here")
        deadline, pause = time.monotonic() + PATIENCE, 0.0002
        while not self._store.check(keys):  # by looking now and then, so that signals are heard
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
            if time.monotonic() > deadline:
                missing = ", ".join(str(rank) for rank, key in enumerate(keys) if not self._store.check([key]))
                raise MachineError(
                    f"waited {PATIENCE:.0f} s for rank {missing}: a reward or a rollout there does not end"
                )
        if self._meetings > 2:  # everybody who is here has left the meeting before the last
            self._store.delete_key(f"meet/{self._meetings - 2}/{self.rank}")


def _sum_bucket(parameters: Sequence[torch.nn.Parameter]) -> None:
    parts = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in parameters]
    flat: Tensor = torch.cat([part.flatten() for part in parts])
    torch.distributed.all_reduce(flat)
    at = 0
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.copy_(flat[at : at + part.numel()].view_as(part))
        at += part.numel()


ALONE = World()


@contextmanager
def joined(launch: Launch) -> Iterator[World]:
    """The processes of this launch, joined for the time of the `with` block.

    A process that dies or fails ends the others within `watch.SILENCE` seconds; each says which one it was.

    Raises:
        MachineError: a process did not come.
    """
    device = _device(launch)
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed guesses, and says so
    if launch.world_size == 1 and launch.deepspeed is None:
        yield World(device=device)
        return
    _meeting_point_for_one(launch)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    try:
        store, rank, size = next(rendezvous("env://"))
        torch.distributed.init_process_group(backend, store=PrefixStore("group", store), rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        raise MachineError(f"rank {launch.rank}: the processes did not find each other: {error}") from error
    if (rank, size) != (launch.rank, launch.world_size):
        raise MachineError(
            f"this is rank {rank} of {size}, where the launcher asked for {launch.rank} of {launch.world_size}"
        )
    who = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
    watch = Watch(PrefixStore("watch", store.clone()), rank, size, who)
    watch.start()
    try:
        yield World(rank, size, device, PrefixStore("world", store))
    except RuntimeError as error:
        # A broken connection says nothing of who broke it; the watch will know.
        trouble = watch.explain(Watch.patience()) if _is_broken_connection(error) else ""
        watch.leave(f"{type(error).__name__}: {error}")
        if trouble:
            raise MachineError(f"{trouble}; {who} ends too; the same command goes on from the checkpoint") from None
        raise
    except BaseException as error:
        watch.leave(f"{type(error).__name__}: {error}")
        raise
    watch.leave(LEFT)
    torch.distributed.destroy_process_group()


def _is_broken_connection(error: RuntimeError) -> bool:
    """gloo and NCCL raise errors of no type of their own."""
    text = str(error).lower()
    return isinstance(error, DistError) or any(word in text for word in ("gloo", "nccl", "peer", "connection"))


def _device(launch: Launch) -> str:
    """The GPU that is this process's own, or the CPU."""
    if launch.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before CUDA is looked for: models go where it is found
    if launch.cpu or not torch.cuda.is_available():
        return "cpu"
    if launch.local_size > torch.cuda.device_count():
        raise MachineError(
            f"{launch.local_size} processes on a machine with {torch.cuda.device_count()} GPUs: start one a GPU"
        )
    torch.cuda.set_device(launch.local_rank)
    return "cuda"


def _meeting_point_for_one(launch: Launch) -> None:
    """DeepSpeed in one process that no launcher started: it is its own meeting point."""
    if launch.world_size == 1 and "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
        }
