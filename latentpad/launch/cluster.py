"""A Ray cluster to spread rollouts over: one of this process's own, on the loopback only, or one that runs already.

Imports no torch, and Ray only when a cluster is asked for.
"""

from __future__ import annotations

import atexit
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.launch.head import Head, find_head
from latentpad.launch.passed_on import passed_on, without_others, worker_environment
from latentpad.recipe.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0
"""Seconds in which the head of a cluster has to answer before this process joins it."""
ANSWERING = 5.0
"""Seconds in which a head has to answer when it is left; else the connections to it are cut."""
LEAVING = 60.0
"""Seconds for Ray to say goodbye: 1 was measured with a head, 5 to 8 without, 20 with a frozen one."""
OBJECT_STORE_BYTES = 512 * 1024**2
"""Of a private cluster: weights and rollouts on their way."""

_QUICK = {"RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000"}
_QUICK |= {"RAY_health_check_timeout_ms": "3000", "RAY_health_check_failure_threshold": "3"}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0: Ray binds to 127.0.0.1 and nothing else, on Linux too
# Left alone, Ray ends a driver that has not reached the head for 60 s. The driver itself is to notice, and to say so.
_PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
_MARK = "LATENTPAD_CLUSTER"
# Ends what is left of a private cluster, also when its driver was killed: it reads a pipe of which the driver holds the
# other end. Ray's workers end by themselves then; its agents were seen to run on for good. All carry the mark.
_SWEEPER = """
import os, shutil, signal, sys, time
folder, mark = sys.argv[1], sys.argv[2].encode()
sys.stdin.buffer.read()
def left():
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as environment:
                if mark in environment.read().split(b"\\0"):
                    yield int(process)
        except OSError:
            pass
deadline = time.monotonic() + 30
while (found := list(left())) and time.monotonic() < deadline:
    for process in found:
        try:
            os.kill(process, signal.SIGKILL)
        except OSError:
            pass
    time.sleep(0.05)
shutil.rmtree(folder, ignore_errors=True)
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster that is alive: its id, host, CPUs and GPUs that Ray may give out."""

    id: str
    host: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: the module, connected.
        address: `host:port` of the head, or `private`.
        private: started by this process, for it alone.
        head: where the head listens.
    """

    ray: Any
    address: str
    private: bool
    head: Head

    def nodes(self) -> list[Node]:
        """The nodes that are alive, in order of their ids. May wait for long where the head does not answer."""
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        found = [
            Node(n["NodeID"], n["NodeManagerAddress"], n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0))
            for n in alive
        ]
        return sorted(found, key=lambda node: node.id)

    def head_answers(self, patience: float) -> bool:
        """Whether the head answers within `patience` seconds. Never waits for longer."""
        deadline = time.monotonic() + patience
        return self.head.accepts(patience) and _answers(self.ray, max(0.1, deadline - time.monotonic()))


def _answers(ray: Any, patience: float) -> bool:
    """A call to the head, in a thread that is left behind if it hangs."""
    said: list[bool] = []

    def ask() -> None:
        try:
            ray._private.worker.global_worker.gcs_client.check_alive([], timeout=patience)
        except (ray.exceptions.RayError, RuntimeError, ValueError, AttributeError):
            return
        said.append(True)

    thread = threading.Thread(target=ask, daemon=True, name="head-answers")
    thread.start()
    thread.join(patience)
    return bool(said)


@contextmanager
def cluster(address: str | None, *, cpus: int | None = None, gpus: int | None = None) -> Iterator[Cluster]:
    """A Ray cluster for the time of a `with`.

    Args:
        address: None for a private one on the loopback of this machine, which ends with the `with`; `auto` for the one
            in RAY_ADDRESS or that `ray start` started here; or `host:port` of a head.
        cpus: that a private one gives out; all of this machine by default.
        gpus: the same.

    Raises:
        MachineError: no Ray; no such cluster, it does not answer, or it does not let this process in.
    """
    ray = _import_ray()
    if ray.is_initialized():
        raise MachineError("engine 'ray': this process is connected to a Ray cluster already: leave it first")
    with ExitStack() as stack:
        stack.enter_context(_quiet(ray))
        if address is None:
            joined = stack.enter_context(_private(ray, cpus, gpus))
        else:
            joined = stack.enter_context(_running(ray, address))
        yield joined


def _import_ray() -> Any:
    for name, value in (_PATIENT | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise MachineError("engine 'ray' needs Ray: pip install 'latentpad[ray]'") from None
    return ray


@contextmanager
def _private(ray: Any, cpus: int | None, gpus: int | None) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="latentpad-ray-", dir=_short_folder()))
    sweep = [sys.executable, "-S", "-c", _SWEEPER, str(folder), f"{_MARK}={folder}"]
    sweeper = subprocess.Popen(sweep, stdin=subprocess.PIPE, start_new_session=True)
    own = passed_on(os.environ) | worker_environment() | _QUICK | _PATIENT | {"RAY_AUTH_MODE": "token"}
    own |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0", _LOOPBACK: "0"}
    own |= {_MARK: str(folder), "SPT_NOENV": "1"}  # SPT_NOENV: a process that renames itself keeps its environment
    head = None
    try:
        with without_others(own), _loopback_only(ray):
            _read_settings(ray)
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(folder),
            )
        head = Head.parse(ray.get_runtime_context().gcs_address)
        yield Cluster(ray, "private", True, head)
    finally:
        _leave(ray, head)
        _forget_token(ray)
        assert sweeper.stdin is not None
        sweeper.stdin.close()
        sweeper.wait()


def _short_folder() -> str:
    """For sockets, whose paths may be of 107 bytes, of which Ray needs 65."""
    return "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()


@contextmanager
def _running(ray: Any, address: str) -> Iterator[Cluster]:
    head = find_head(address, PATIENCE)
    environment = worker_environment(job=os.environ)
    _read_settings(ray)
    try:
        try:
            ray.init(
                address=str(head),
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"env_vars": environment} if environment else None,
            )
        except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise MachineError(f"engine 'ray': the cluster at {head} cannot be joined: {said[0]}") from error
        yield Cluster(ray, str(head), False, head)
    finally:
        _leave(ray, head)
        _forget_token(ray)


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Ray prints what it has to say about dead workers and nodes to stdout, in paragraphs, whatever is asked of it."""
    worker = ray._private.worker
    before, worker.print_to_stdstream = worker.print_to_stdstream, lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _leave(ray: Any, head: Head | None) -> None:
    """Ray says goodbye, which must not hold this process for ever: it would wait for a frozen head."""
    if head is not None and not (head.accepts(ANSWERING) and _answers(ray, ANSWERING)):
        head.hang_up()
    thread = threading.Thread(target=ray.shutdown, daemon=True, name="leave-ray")
    thread.start()
    thread.join(LEAVING)
    if thread.is_alive():
        atexit.unregister(ray.shutdown)


@contextmanager
def _loopback_only(ray: Any) -> Iterator[None]:
    """Ray reads the switch once, at its import, which may be long ago."""
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def _read_settings(ray: Any) -> None:
    """Ray keeps the first settings and the first token that it saw in this process."""
    ray._raylet.Config.initialize("")
    _forget_token(ray)


def _forget_token(ray: Any) -> None:
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
