"""`latentpad train` as several processes, each a child of a warm one, as a launcher would start them."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tests.training import worker

ZERO = {
    "zero-1": {"stage": 1},
    "zero-2": {"stage": 2},
    "zero-3": {"stage": 3},
    "zero-2-offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
}
STRATEGIES = ("replicated", *ZERO)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@dataclass(frozen=True)
class AsRank:
    """Makes this process one of several, and then whatever else a test wants of it."""

    rank: int
    size: int
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    also: Callable[[int], None] | None = None

    def __call__(self) -> None:
        os.environ |= {"RANK": str(self.rank), "LOCAL_RANK": str(self.rank), "WORLD_SIZE": str(self.size)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(self.size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.port)}
        os.environ |= self.environment
        if self.also is not None:
            self.also(self.rank)


def train(arguments: list[str], prepare: Callable[[], None], log: Path) -> None:
    from latentpad.cli import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    prepare()
    sys.exit(main(["train", *arguments]))


def start(
    recipe: Path,
    run: Path,
    *,
    strategy: str = "replicated",
    size: int = 2,
    environment: dict[str, str] | None = None,
    also: Callable[[int], None] | None = None,
) -> list[BaseProcess]:
    """One child a rank; what it says goes to `run.<rank>.log` beside the run."""
    arguments = [str(recipe), "--out", str(run)]
    if strategy in ZERO:
        file = run.parent / f"{strategy}.json"
        file.write_text(json.dumps({"zero_optimization": ZERO[strategy]}))
        arguments += ["--deepspeed", str(file)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(worker.HEAVY)
    port, children = free_port(), []
    for rank in range(size):
        prepare = AsRank(rank, size, port, environment or {}, also)
        children.append(context.Process(target=train, args=(arguments, prepare, log_of(run, rank))))
        children[-1].start()
    return children


def log_of(run: Path, rank: int) -> Path:
    return run.with_name(f"{run.name}.{rank}.log")


def finish(children: list[BaseProcess], *, patience: float = 180.0) -> list[int | None]:
    deadline = time.monotonic() + patience
    for child in children:
        child.join(max(0.1, deadline - time.monotonic()))
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes


def trained(recipe: Path, run: Path, **options: object) -> Path:
    """The run, trained to its end by all ranks."""
    codes = finish(start(recipe, run, **options))  # type: ignore[arg-type]
    told = "\n".join(log_of(run, rank).read_text()[-3000:] for rank in range(len(codes)))
    assert set(codes) == {0}, told
    return run


def plain_descent(_: int = 0) -> None:
    """Policies step by plain gradient descent: a weight moves by its gradient, so gradients can be compared."""
    from latentpad.training import optimizer

    def descent(
        _: str | None, parameters: list[torch.nn.Parameter], *, lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=lr)

    optimizer.make_optimizer = descent  # type: ignore[assignment]
