"""Joining a cluster that runs already: who is let in, what is passed on, and what if its head is gone."""

from __future__ import annotations

import json
import platform
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray")

from latentpad.launch.cluster import cluster
from latentpad.launch.head import Head, find_head, refuse_stranger
from latentpad.recipe.errors import MachineError
from tests.cluster.nodes import ROOT, Nodes, read, two_nodes, why_no_namespaces

JOINED = """
import json, sys
from latentpad.launch.cluster import cluster
from latentpad.recipe.errors import MachineError
try:
    with cluster(sys.argv[1]) as joined:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
        @joined.ray.remote(num_cpus=1)
        def look():
            import os, latentpad, ray
            return ray.util.get_node_ip_address(), latentpad.__file__, dict(os.environ)
        nodes = joined.nodes()
        seen = [joined.ray.get(look.options(scheduling_strategy=On(node.id, soft=False)).remote()) for node in nodes]
        hosts, answers = [node.host for node in nodes], joined.head_answers(20.0)
        print(json.dumps({"hosts": hosts, "seen": seen, "answers": answers}))
except MachineError as error:
    print(json.dumps({"refused": str(error)}))
"""

LEFT_ALONE = """
import json, sys, time
from latentpad.launch.cluster import cluster
with cluster(sys.argv[1]) as joined:
    @joined.ray.remote(num_cpus=0)
    class Worker:
        def ping(self):
            return True
    worker = Worker.remote()
    joined.ray.get(worker.ping.remote())
    print(json.dumps({"answers": joined.head_answers(20.0)}), flush=True)
    sys.stdin.readline()
    said, seconds = [], []
    while len(said) < 3 and False not in said:  # what it was asked before it froze it may still answer
        began = time.monotonic()
        said.append(joined.head_answers(5.0))
        seconds.append(time.monotonic() - began)
    print(json.dumps({"answers": said[-1], "seconds": max(seconds)}), flush=True)
sys.exit(3)
"""


@pytest.fixture(scope="module", params=["namespaces", "loopback"])
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    reason = why_no_namespaces() if request.param == "namespaces" else ""
    if reason:
        pytest.skip(f"two networks: {reason}")
    apart = request.param == "namespaces"
    with two_nodes(tmp_path_factory.mktemp("nodes"), namespaces=apart) as both:
        yield both


def join(nodes: Nodes, address: str = "", **environment: str) -> dict[str, Any]:
    done = nodes.run([sys.executable, "-c", JOINED, address or nodes.address], **environment)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_task_runs_on_each_of_two_nodes(nodes: Nodes) -> None:
    told = join(nodes, HF_HUB_OFFLINE="1", HF_TOKEN="hf_secret", RANK="1")
    both = {nodes.head.address, nodes.second.address}
    assert set(told["hosts"]) == both
    assert {address for address, _, _ in told["seen"]} == both
    assert told["answers"]
    for _, where, environment in told["seen"]:
        assert where == str(ROOT / "latentpad" / "__init__.py")
        assert environment["HF_HUB_OFFLINE"] == "1"
        assert not {"RANK", "HF_TOKEN"} & set(environment)


def test_auto_is_the_cluster_started_here_or_the_one_of_ray_address(nodes: Nodes) -> None:
    assert len(join(nodes, "auto")["hosts"]) == 2
    assert len(join(nodes, "auto", RAY_ADDRESS=nodes.address, RAY_TMPDIR="/nowhere")["hosts"]) == 2
    assert "no Ray cluster here" in join(nodes, "auto", RAY_TMPDIR="/nowhere")["refused"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN": "another" * 6}, "has another token than this process"),
        ({"RAY_AUTH_TOKEN_PATH": "/no/file"}, "no token for"),
        ({"RAY_AUTH_TOKEN_PATH": "", "HOME": "/nowhere"}, "no token for"),
        ({"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled lets anyone in"),
    ],
)
def test_who_has_not_the_token_is_refused_in_one_line(nodes: Nodes, environment: dict[str, str], words: str) -> None:
    told = join(nodes, **environment)["refused"]
    assert words in told
    assert "RAY_AUTH_TOKEN_PATH" in told
    assert "\n" not in told


@pytest.mark.parametrize("fault", ["frozen", "killed"])  # in this order: the head is gone after the second
def test_a_driver_whose_head_is_gone_notices_and_ends_by_itself(nodes: Nodes, fault: str) -> None:
    driver = nodes.popen([sys.executable, "-c", LEFT_ALONE, nodes.address])
    assert read(driver) == {"answers": True}
    if fault == "frozen":
        nodes.freeze_head()
    else:
        nodes.kill_head()
    assert driver.stdin is not None
    driver.stdin.write("\n")
    driver.stdin.flush()
    try:
        told = read(driver)
        assert told["answers"] is False
        assert told["seconds"] < 30  # asked for 5; the machine may be busy
        driver.communicate(timeout=200)
        assert driver.returncode == 3
    finally:
        if fault == "frozen":
            nodes.thaw_head()


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 64)


@pytest.mark.usefixtures("token")
def test_where_nothing_listens_one_line_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(MachineError, match=f"nothing answers at 127.0.0.1:{port}"):
        find_head(f"127.0.0.1:{port}", patience=1.0)


@pytest.mark.usefixtures("token")
def test_a_listener_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert Head.parse(address).accepts(5.0)
        with pytest.raises(MachineError, match=r"did not answer"):
            find_head(address, patience=1.0)


def test_other_versions_are_refused() -> None:
    head, python = Head("10.0.0.1", 6379), platform.python_version()
    ours = {"ray": "2.60.0", "open": False, "cluster": {"ray_version": "2.60.0", "python_version": python}}
    refuse_stranger(head, ours)
    theirs = ours | {"cluster": {"ray_version": "2.59.1", "python_version": python}}
    with pytest.raises(MachineError, match=rf"has Ray 2\.59\.1, Python {python}, this process Ray 2\.60\.0"):
        refuse_stranger(head, theirs)


def test_a_cluster_that_lets_anyone_in_is_refused() -> None:
    with pytest.raises(MachineError, match="lets anyone in"):
        refuse_stranger(Head("10.0.0.1", 6379), {"ray": "2.60.0", "open": True, "cluster": {}})


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "", "10.0.0.1:port"])
@pytest.mark.usefixtures("token")
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(MachineError, match="expected 'auto' or HOST:PORT"), cluster(address):
        raise AssertionError("joined")
