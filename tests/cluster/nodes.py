"""Two real Ray nodes on this machine by `ray start`, each with an address, a folder and processes of its own.

Where it is allowed they are in two network namespaces joined by a cable of their own, else at two addresses of the
loopback. Each process of a node carries a mark in its environment, by which it is found and ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).resolve().parents[2]
MARK = "LATENTPAD_TEST_NODE"
STARTING = 120.0
KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Place:
    """Where a node runs: what comes before its commands, its address, its short folder (sockets are in it)."""

    enter: tuple[str, ...]
    address: str
    folder: Path


def why_no_namespaces() -> str:
    """Why this machine cannot have two networks, or nothing."""
    if shutil.which("ip") is None:
        return "there is no 'ip' (iproute2)"
    name = f"lp{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"'ip netns add' is not allowed: {made.stderr.strip()}"
    pair = ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}x", "netns", name]
    joined = subprocess.run(pair, capture_output=True, text=True)
    subprocess.run(["ip", "link", "del", name], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"a veth pair is not allowed: {joined.stderr.strip()}" if joined.returncode else ""


def processes(mark: str) -> list[int]:
    """Those that carry `MARK=mark` in their environment, or a mark that begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"\0{MARK}={mark}".encode() in b"\0" + (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the driver tells, without waiting for ever for it."""
    assert process.stdout is not None
    timer = threading.Timer(120, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    assert line, process.communicate()[1][-2000:]
    told: dict[str, Any] = json.loads(line)
    return told


def end(mark: str) -> None:
    """SIGKILL for all of them, until none is left."""
    deadline = time.monotonic() + 30
    while (found := processes(mark)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    assert not processes(mark)


@dataclass
class Nodes:
    """A head and a second node, with `cpus` each.

    Attributes:
        environment: of a driver, with the token.
        settings: for the nodes alone, as `RAY_...` variables.
    """

    head: Place
    second: Place
    port: int
    environment: dict[str, str]
    settings: dict[str, str]
    cpus: tuple[int, int]
    mark: str
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.head.address}:{self.port}"

    def start_head(self) -> None:
        arguments = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        if not self.head.enter and find_spec("grpc"):  # Ray's client server, which nobody wants, would take port 10001
            arguments.append(f"--ray-client-server-port={_free_port(self.head.address)}")
        self._start(self.head, "head", [*arguments, f"--num-cpus={self.cpus[0]}"])

    def start_second(self) -> None:
        self._start(self.second, "second", [f"--address={self.address}", f"--num-cpus={self.cpus[1]}"])

    def kill_second(self) -> None:
        """As if the machine lost its power."""
        end(f"{self.mark}second")

    def kill_head(self) -> None:
        """The head process (GCS) alone: its node's workers and raylet are left."""
        os.kill(self._head_process(), signal.SIGKILL)

    def freeze_head(self) -> None:
        """The head process takes connections and answers nothing."""
        os.kill(self._head_process(), signal.SIGSTOP)

    def thaw_head(self) -> None:
        os.kill(self._head_process(), signal.SIGCONT)

    def _head_process(self) -> int:
        found = [process for process in processes(f"{self.mark}head") if "gcs_server" in command_of(process)]
        assert len(found) == 1
        return found[0]

    def run(
        self, command: Sequence[str], timeout: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A driver on the head's node, to its end."""
        told = [*self.head.enter, *command]
        variables = self.environment | environment
        return subprocess.run(told, env=variables, cwd=ROOT, timeout=timeout, capture_output=True, text=True)

    def popen(self, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """A driver on the head's node, with a pipe to and from it."""
        told = [*self.head.enter, *command]
        pipe = subprocess.PIPE
        variables = self.environment | environment
        self.drivers.append(
            subprocess.Popen(told, env=variables, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        )
        return self.drivers[-1]

    def cut(self) -> None:
        """As if the second node's cable was pulled out; its processes live on. In namespaces only."""
        assert self.second.enter, "both nodes are on one network"
        _ip("-n", self.second.enter[-1], "link", "set", "eth0", "down")

    def _end_drivers(self) -> None:
        for driver in self.drivers:
            driver.kill()
            driver.communicate()

    def _start(self, place: Place, name: str, arguments: list[str]) -> None:
        fixed = [f"--node-ip-address={place.address}", "--disable-usage-stats"]
        command = [*place.enter, RAY, "start", *arguments, *fixed, "--object-store-memory=100000000"]
        # A process that renames itself keeps its environment, and with it the mark, by SPT_NOENV.
        variables = self.environment | self.settings | {MARK: f"{self.mark}{name}", "SPT_NOENV": "1"}
        variables["RAY_TMPDIR"] = str(place.folder)
        told_by: list[str] = []
        for _ in range(2):  # Ray gives up after 50 s by itself, which a busy machine can need
            done = subprocess.run(command, env=variables, cwd=ROOT, timeout=STARTING, capture_output=True, text=True)
            if done.returncode == 0:
                return
            end(f"{self.mark}{name}")
            logs = [file for file in place.folder.glob("ray/session_*/logs/*") if file.suffix in (".err", ".out")]
            told = "\n".join(f"{file.name}: {file.read_text()[-800:]}" for file in logs)
            told_by.append(f"{done.stdout[-500:]}{done.stderr[-500:]}\n{told}")
        raise AssertionError(f"{name} did not start: " + "\n".join(told_by))


@contextmanager
def two_nodes(
    folder: Path, cpus: tuple[int, int] = (1, 1), *, namespaces: bool | None = None, **settings: str
) -> Iterator[Nodes]:
    """Both nodes, up and joined. Nothing of them is left afterwards.

    Args:
        folder: for the token.
        cpus: of the head's node and of the second.
        namespaces: whether each has a network of its own; by default where that is allowed.
        settings: variables for the nodes alone, as `RAY_health_check_period_ms`.
    """
    apart = not why_no_namespaces() if namespaces is None else namespaces
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    name = f"lp{secrets.token_hex(4)}"
    with ExitStack() as stack:
        places = stack.enter_context(_networks(name) if apart else _loopback(name))
        stack.callback(end, f"{name}.")
        environment = {key: os.environ[key] for key in KEPT if key in os.environ} | {"PYTHONPATH": str(ROOT)}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= {"RAY_TMPDIR": str(places[0].folder)}
        port = 6379 if apart else _free_port(places[0].address)
        nodes = Nodes(*places, port, environment, settings, cpus, f"{name}.")
        stack.callback(nodes._end_drivers)
        nodes.start_head()
        nodes.start_second()
        yield nodes


@contextmanager
def _loopback(name: str) -> Iterator[tuple[Place, Place]]:
    with _folders(name) as (first, second):
        yield Place((), "127.0.0.2", first), Place((), "127.0.0.3", second)


@contextmanager
def _networks(name: str) -> Iterator[tuple[Place, Place]]:
    names, net = (f"{name}h", f"{name}s"), f"10.213.{secrets.randbelow(256)}"
    with ExitStack() as stack:
        folders = stack.enter_context(_folders(name))
        for space in names:
            _ip("netns", "add", space)
            stack.callback(_ip, "netns", "del", space)
        _ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for number, space in enumerate(names, start=1):
            _ip("-n", space, "addr", "add", f"{net}.{number}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield tuple(
            Place(("ip", "netns", "exec", space), f"{net}.{number}", folder)
            for number, (space, folder) in enumerate(zip(names, folders, strict=True), start=1)
        )  # type: ignore[misc]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def _folders(name: str) -> Iterator[tuple[Path, Path]]:
    """Short ones, for the paths of sockets may be of 107 bytes."""
    with tempfile.TemporaryDirectory(prefix=name, dir="/tmp", ignore_cleanup_errors=True) as folder:
        both = Path(folder) / "h", Path(folder) / "s"
        for one in both:
            one.mkdir()
        yield both


def _free_port(address: str) -> int:
    with socket.socket() as found:
        found.bind((address, 0))
        port: int = found.getsockname()[1]
        return port
