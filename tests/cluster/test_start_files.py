"""The files in docker/ as far as they can be read without Docker and Kubernetes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentpad.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
FILES = ("compose.yaml", "kuberay-rayjob.yaml", "ray-up.yaml")


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return found


def start_commands() -> list[str]:
    """Every `ray start` that the files give."""
    compose, up = load("compose.yaml")["services"], load("ray-up.yaml")
    told = [compose["head"]["command"], compose["worker"]["command"], compose["driver"]["entrypoint"][2]]
    told += [command for key in ("head", "worker") for command in up[f"{key}_start_ray_commands"]]
    found = [
        re.split(r">/dev/null|&&|;", command[command.index("ray start") :])[0] for command in told if "start" in command
    ]
    assert len(found) == 5
    return found


@pytest.mark.parametrize("command", start_commands())
def test_ray_knows_every_option_of_its_start(command: str) -> None:
    scripts = pytest.importorskip("ray.scripts.scripts")
    words = command.split()[2:]
    scripts.start.make_context("start", list(words))
    assert "--disable-usage-stats" in words
    if "--head" in words:
        assert "--include-dashboard=false" in words


def test_every_way_starts_with_a_token() -> None:
    compose, job, up = (load(name) for name in FILES)
    for service in compose["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert service["secrets"] == ["ray_token"]
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "latentpad-token"}
    for key in ("head", "worker"):
        assert "RAY_AUTH_MODE=token" in up[f"{key}_start_ray_commands"][-1]
    assert "~/.ray/auth_token" in up["file_mounts"]


@pytest.mark.parametrize("name", [*FILES, "Dockerfile"])
def test_no_token_stands_in_a_file(name: str) -> None:
    text = (DOCKER / name).read_text()
    assert not re.search(r"RAY_AUTH_TOKEN\b(?!_PATH)", text)
    assert not re.search(r"[0-9a-f]{32}", text)
    assert (DOCKER / ".gitignore").read_text().split() == ["token"]


def test_compose_publishes_nothing_and_takes_no_privilege() -> None:
    compose = load("compose.yaml")
    assert set(compose["services"]) == {"head", "worker", "driver"}
    for service in compose["services"].values():
        assert "ports" not in service
        assert "privileged" not in service
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["networks"]) <= set(compose["networks"])
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])


def test_pods_take_no_privilege_and_share_runs() -> None:
    cluster = load("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(pods) == 2
    for pod in pods:
        spec = pod["template"]["spec"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]} == {"runs", "models"}


def test_ray_up_takes_its_file() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(load("ray-up.yaml")))
    with pytest.raises(Exception, match="no_such_key"):
        util.validate_config(util.prepare_config(load("ray-up.yaml")) | {"no_such_key": 1})


def test_the_image_has_the_extras_and_files_that_exist() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extras] = re.findall(r"'\.\[(.*)\]'", text)
    assert (
        set(extras.split(",")) == {"ray", "trl", "deepspeed", "bitsandbytes"} <= set(project["optional-dependencies"])
    )
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()]
    assert len(copied) >= 7
    assert [name for name in copied if not (ROOT / name).exists()] == []
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert set(copied) == allowed
    assert re.search(r"^USER latentpad$", text, re.MULTILINE)


def test_ray_of_the_image_of_the_job_and_of_the_tests_is_one() -> None:
    [pinned] = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert load("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned


@pytest.mark.parametrize("verb", ["train", "doctor"])
def test_the_verbs_that_the_files_use_exist(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out.lower()
