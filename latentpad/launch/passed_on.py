"""Which environment variables a worker on a cluster gets: an allow-list, so that no secret travels and no rank."""

from __future__ import annotations

import json
import os
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import latentpad

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
_SAME_NUMBERS = ("CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM")
_MACHINE = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "SSL_CERT_FILE"),
    *("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
)
_LAUNCHERS = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"),
    *("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
_LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_")


def worker_environment(job: Mapping[str, str] | None = None) -> dict[str, str]:
    """What workers on any machine are told: where latentpad is, if it is not installed, and to stay offline if we do.

    Args:
        job: environment of a job of `ray job submit`, whose own variables stand.
    """
    kept = {name: os.environ[name] for name in (*_OFFLINE, *_SAME_NUMBERS) if name in os.environ}
    root = Path(latentpad.__file__).resolve().parent.parent
    if root != Path(sysconfig.get_path("purelib")).resolve():  # installed: first on the path it would hide the library
        others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(root))]
        kept["PYTHONPATH"] = os.pathsep.join([str(root), *others])
    config = json.loads((job or {}).get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    stand = (config.get("runtime_env") or {}).get("env_vars") or {}
    return {name: value for name, value in kept.items() if name not in stand}


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What a private cluster's processes get of this one's environment."""
    names = {*_MACHINE, *_OFFLINE, *_SAME_NUMBERS}
    return {name: value for name, value in environment.items() if name in names or name.startswith("LC_")}


def forget_launcher() -> None:
    """For a worker, first thing: whatever started its machine's Ray, it is no rank of a launcher."""
    for name in list(os.environ):
        if name in _LAUNCHERS or name.startswith(_LAUNCHER_PREFIXES):
            del os.environ[name]


@contextmanager
def without_others(environment: Mapping[str, str]) -> Iterator[None]:
    """This process's environment is `environment` and nothing else for the time of a `with`."""
    before = dict(os.environ)
    try:
        for name in set(before) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
