"""A cluster of this process's own: who listens, what is passed on, what is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from latentpad.launch import passed_on
from tests.cluster.nodes import KEPT, ROOT, read

PRIVATE = """
import json, os, sys
from latentpad.launch.cluster import cluster
with cluster(None, cpus=1) as joined:
    @joined.ray.remote
    def look():
        import latentpad
        return dict(os.environ), os.getpid(), latentpad.__file__
    environment, worker, where = joined.ray.get(look.remote())
    nodes = [(node.host, node.cpus) for node in joined.nodes()]
    told = {"environment": environment, "worker": worker, "where": where, "nodes": nodes, "me": os.getpid()}
    told |= {"own": dict(os.environ), "answers": joined.head_answers(20.0)}
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
"""


def start_private(home: Path) -> subprocess.Popen[str]:
    """A driver with a private cluster, as rank 1 of a launcher and with secrets of its own."""
    environment = {key: os.environ[key] for key in KEPT if key in os.environ} | {"PYTHONPATH": str(ROOT)}
    environment |= {"HOME": str(home), "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"}
    environment |= {"HF_TOKEN": "hf_secret", "AWS_SECRET_ACCESS_KEY": "aws_secret", "HF_HUB_OFFLINE": "1"}
    command, pipe = [sys.executable, "-c", PRIVATE], subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def belonging_to(folder: str) -> list[int]:
    """The processes that carry the mark of a private cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"LATENTPAD_CLUSTER={folder}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def listening(processes: list[int]) -> list[tuple[str, int]]:
    """Addresses and ports on which any of them listens, from the kernel's own tables."""
    inodes = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(file.readlink()))
    found = []
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                found.append((readable(address), int(port, 16)))
    return found


def readable(address: str) -> str:
    """The kernel writes an address as words of 4 bytes in this machine's order."""
    raw = b"".join(int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8))
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    return socket.inet_ntop(socket.AF_INET6, raw).removeprefix("::ffff:")


def gone(condition: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def driver(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    process = start_private(home)
    try:
        yield process, read(process)
    finally:
        process.kill()
        process.communicate()


def test_a_private_cluster_listens_on_the_loopback_alone(driver: tuple[Any, dict[str, Any]]) -> None:
    _, told = driver
    processes = belonging_to(told["environment"]["LATENTPAD_CLUSTER"])
    sockets = listening([*processes, told["me"]])
    assert told["nodes"] == [["127.0.0.1", 1.0]]
    assert told["worker"] in processes
    assert len(processes) >= 4
    assert len(sockets) >= 4
    assert {address for address, _ in sockets} <= {"127.0.0.1", "::1"}
    assert 8265 not in {port for _, port in sockets}  # the dashboard's


def test_sockets_on_all_addresses_would_be_seen() -> None:
    with socket.create_server(("0.0.0.0", 0)) as four, socket.create_server(("::", 0), family=socket.AF_INET6) as six:
        assert listening([os.getpid()]) == [("0.0.0.0", four.getsockname()[1]), ("::", six.getsockname()[1])]


def test_a_worker_gets_no_rank_and_no_secret(driver: tuple[Any, dict[str, Any]]) -> None:
    _, told = driver
    worker, own = told["environment"], told["own"]
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & set(worker)
    assert not {"hf_secret", "aws_secret"} & set(worker.values())
    assert worker["HF_HUB_OFFLINE"] == "1"
    assert worker["OMP_NUM_THREADS"] == "1"
    assert told["where"] == str(ROOT / "latentpad" / "__init__.py")
    # The driver has its own environment back, without the cluster's token, which programs it starts would get.
    assert own["RANK"] == "1"
    assert own["HF_TOKEN"] == "hf_secret"
    assert not {"RAY_AUTH_TOKEN", "LATENTPAD_CLUSTER", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & set(own)
    assert len(worker["RAY_AUTH_TOKEN"]) == 64


def test_nothing_is_left_of_a_private_cluster(driver: tuple[Any, dict[str, Any]], home: Path) -> None:
    process, told = driver
    folder = told["environment"]["LATENTPAD_CLUSTER"]
    assert told["answers"]
    assert Path(folder).is_dir()
    assert len(belonging_to(folder)) >= 4
    _, said = process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert belonging_to(folder) == []
    assert not Path(folder).exists()
    assert list(home.rglob("*")) == []  # no token, no usage statistics
    assert said == ""


def test_nothing_is_left_when_the_driver_is_killed(home: Path) -> None:
    process = start_private(home)
    try:
        told = read(process)
    finally:
        process.send_signal(signal.SIGKILL)
    folder = told["environment"]["LATENTPAD_CLUSTER"]
    assert gone(lambda: not belonging_to(folder) and not Path(folder).exists(), patience=30)
    process.communicate()
    assert list(home.rglob("*")) == []


def test_variables_of_a_submitted_job_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": {"PYTHONHASHSEED": "0"}}})}
    kept = passed_on.worker_environment(job)
    assert kept["HF_HUB_OFFLINE"] == "1"
    assert "PYTHONHASHSEED" not in kept
    assert passed_on.worker_environment()["PYTHONHASHSEED"] == "7"


def test_what_a_launcher_set_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID", "RANKING"):
        monkeypatch.setenv(name, "1")
    passed_on.forget_launcher()
    assert not {"RANK", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    assert os.environ["RANKING"] == "1"
