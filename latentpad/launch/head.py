"""The head of a Ray cluster that runs already: found, asked who it is, and refused in one line if it will not do."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentpad.recipe.errors import MachineError

_TOKEN = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE here as on its nodes (docker/README.md)"
# In a process of its own: Ray's client may wait for a minute, writes to stderr, or ends its process.
_ASK = """
import json, os, secrets, sys
import ray
from ray._raylet import GcsClient
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available as enable

def lets_in_any_token(address):
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()
    try:
        GcsClient(address=address).check_alive([], timeout=20)
    except ray.exceptions.AuthenticationError:
        return False
    return True

said = {"ray": ray.__version__, "auth": enable(warn_if_disabled=False)}
try:
    metadata = GcsClient(address=sys.argv[1]).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=20)
    said["cluster"] = json.loads(metadata) if metadata else {}
    said["open"] = not said["auth"] or lets_in_any_token(sys.argv[1])
except ray.exceptions.AuthenticationError as error:
    said["refused"] = str(error)
except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
    said["error"] = str(error)
print(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a cluster's head listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, address: str) -> Head:
        """Of `host:port` or `[IPv6]:port`.

        Raises:
            MachineError: it is neither.
        """
        host, _, port = address.rpartition(":")
        if "://" in address or not host or not port.isdigit():
            raise MachineError(
                f"engine 'ray': address {address!r}: expected 'auto' or HOST:PORT of the head, as 'ray start --head' "
                "tells it (a script under 'ray job submit' takes 'auto')"
            )
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def accepts(self, patience: float) -> bool:
        """Whether something takes a connection there within so many seconds."""
        try:
            socket.create_connection((self.host, self.port), timeout=max(patience, 0.01)).close()
        except OSError:
            return False
        return True

    def hang_up(self) -> None:
        """Cut this process's connections to it: what waits for an answer on them fails, and waits no longer."""
        hosts = {str(found[4][0]) for found in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        for descriptor in list(Path("/proc/self/fd").iterdir()):
            try:
                connection = socket.socket(fileno=os.dup(int(descriptor.name)))
            except OSError:  # no socket
                continue
            with connection, suppress(OSError, ValueError):
                host, port = connection.getpeername()[:2]
                if port == self.port and host.removeprefix("::ffff:") in hosts:
                    connection.shutdown(socket.SHUT_RDWR)


def find_head(address: str, patience: float) -> Head:
    """The head at `address`, after it answered, took our token, and turned out to run our versions.

    Raises:
        MachineError: anything else.
    """
    head = _address_of_auto() if address == "auto" else Head.parse(address)
    _refuse_no_token(head)
    deadline = time.monotonic() + patience
    while not head.accepts(min(5.0, patience)):
        if time.monotonic() > deadline:
            raise MachineError(f"engine 'ray': nothing answers at {head}: is the head up ('ray status' there)?")
        time.sleep(0.5)
    said = _ask(head, max(10.0, deadline - time.monotonic()))
    refuse_stranger(head, said)
    return head


def _address_of_auto() -> Head:
    address = os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto"):
        return Head.parse(address)
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return Head.parse((Path(folder) / "ray" / "ray_current_cluster").read_text().strip())
    except OSError:
        raise MachineError(
            "engine 'ray': address 'auto': no Ray cluster here: run 'ray start' on this machine first, or set "
            "RAY_ADDRESS=HOST:PORT"
        ) from None


def _ask(head: Head, patience: float) -> dict[str, Any]:
    command = [sys.executable, "-c", _ASK, str(head)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL)
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"engine 'ray': the head at {head} took the connection and did not answer for {patience:.0f} s: is it a "
            "Ray head, and does it run?"
        ) from None
    except (IndexError, ValueError):
        raise MachineError(f"engine 'ray': {head} cannot be asked: {done.stderr.strip()[-300:]}") from None
    return said


def refuse_stranger(head: Head, said: dict[str, Any]) -> None:
    """Whether to join, from what the process that asked tells.

    Raises:
        MachineError: another token, no answer, no token at all, other versions.
    """
    if "refused" in said:
        raise MachineError(f"engine 'ray': the cluster at {head} has another token than this process: {_TOKEN}")
    if "error" in said:
        raise MachineError(f"engine 'ray': the head at {head} did not answer: {said['error'].splitlines()[0]}")
    if said["open"]:
        raise MachineError(f"engine 'ray': the cluster at {head} lets anyone in: start every node of it anew, {_TOKEN}")
    theirs = f"Ray {said['cluster'].get('ray_version')}, Python {said['cluster'].get('python_version')}"
    ours = f"Ray {said['ray']}, Python {platform.python_version()}"
    if said["cluster"] and theirs != ours:
        raise MachineError(
            f"engine 'ray': the cluster at {head} has {theirs}, this process {ours}: install the same on all machines"
        )


def _refuse_no_token(head: Head) -> None:
    """Ray ends its process where it is told to use a token and finds none."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise MachineError(f"engine 'ray': RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']} lets anyone in: {_TOKEN}")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    try:
        found = Path(file).read_text().strip()
    except OSError as error:
        raise MachineError(f"engine 'ray': no token for {head}: {file}: {error.strerror}: {_TOKEN}") from None
    if not found:
        raise MachineError(f"engine 'ray': no token for {head}: {file} is empty: {_TOKEN}")
