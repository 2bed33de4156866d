"""Traces kept on disk between starts, under a name made of everything that decides them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentpad.tasks.tracing.execution import MAX_CHARACTERS, Program, Step, Trace, interpreter, script, trace_all

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where a user's caches go: `$XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "latentpad" / "traces"


def key_of(programs: Sequence[Program]) -> str:
    """The name of the traces: of the programs, of what makes traces of them, and of the interpreter that runs them."""
    makers = [script(name) for name in ("execution", "normal_form", "tracer", "stepper")]
    everything = [interpreter(), MAX_CHARACTERS, *makers, [[p.source, p.test] for p in programs]]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def traces_of(programs: Sequence[Program], folder: Path) -> list[Trace]:
    """The traces, from the folder if they are there, else made and left there. A folder is no must: it only saves time.

    Raises:
        MachineError: there is no sandbox.
    """
    file = folder / f"{key_of(programs)[:32]}.json"
    traces = _load(file, len(programs))
    if traces is None:
        traces = trace_all(programs)
        _save(file, traces)
    return traces


def _load(file: Path, count: int) -> list[Trace] | None:
    try:
        digest, _, body = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(body).hexdigest().encode() == digest:
        found: list[list[Any]] = json.loads(body)
        if len(found) == count:
            return [Trace(end, tuple(Step(*step) for step in steps), value, form) for end, steps, value, form in found]
    _LOG.warning("%s is damaged: making the traces again", file)
    return None


def _save(file: Path, traces: Sequence[Trace]) -> None:
    """Written beside and renamed, so that nobody reads half a file."""
    body = json.dumps(
        [[t.end, [[s.line, s.state, s.moved] for s in t.steps], t.value, t.form] for t in traces]
    ).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".traces-", delete=False) as part:
            part.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        Path(part.name).replace(file)
    except OSError as error:
        _LOG.warning("traces cannot be kept in %s (%s): they will be made again", file.parent, error)
