"""Runs one program in a child of the zygote, as `python program.py` would, and leaves."""

from __future__ import annotations

import atexit
import gc
import io
import os
import random
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from reward.sandbox.values import encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

RESULT_FD = 3
HARNESS = "<sandbox>"  # the file name that the zygote's own code is compiled under
_FRAMES = 20  # of a traceback, the innermost: a deep recursion is an error, not too much output
_exit = os._exit
_write = os.write


def pin_environment() -> None:
    """Leave only what programs may see of the environment: the same everywhere."""
    for name in set(os.environ) - {"PATH", "HOME", "LC_ALL", "TZ"}:
        del os.environ[name]


def look_like_a_script() -> None:
    """What a program can see of how it was started."""
    sys.argv = ["program.py"]
    sys.orig_argv = ["python", "program.py"]
    sys.executable = ""


def fresh_streams() -> None:
    """Standard streams as in an interpreter that has just started. They look at what is open while they are made."""
    sys.stdin = sys.__stdin__ = _stream(0, "r", "<stdin>")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", "<stdout>")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", "<stderr>")  # type: ignore[misc]


def fresh_interpreter() -> None:
    """Random numbers and garbage collection likewise."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    gc.enable()


def _stream(number: int, mode: str, name: str) -> io.TextIOWrapper:
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = name
    buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    errors = "backslashreplace" if number == 2 else "surrogateescape"
    stream = io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=number == 2)
    stream.mode = mode  # type: ignore[misc]
    return stream


def fresh_main() -> list[ModuleType]:
    """A new `__main__`, in a box that can be emptied."""
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    return [main]


def run_program(box: list[bytes], main: list[ModuleType]) -> NoReturn:
    """Run `box` (the call, then the source, taken from its end) in `main`; never return."""
    try:
        code = _attempt(_execute, box, main)
        if code is None and box[0]:
            code = _attempt(_evaluate, box, main)
        _leave(code or 0, main)
    finally:  # whatever a program may raise in here, nothing gets back to the zygote's code
        _exit(1)


def _execute(box: list[bytes], main: list[ModuleType]) -> None:
    exec(compile(box.pop(), "<program>", "exec", dont_inherit=True), main[0].__dict__)  # noqa: S102 (what it is for)


def _evaluate(box: list[bytes], main: list[ModuleType]) -> None:
    value = eval(compile(box.pop().strip(), "<call>", "eval", dont_inherit=True), main[0].__dict__)  # noqa: S307
    rest = encode(value).encode("ascii")
    while rest:
        rest = rest[_write(RESULT_FD, rest) :]


def _attempt(step: Callable[..., None], *arguments: Any) -> int | None:
    """The exit code that the step asks for, or None if it just ended."""
    try:
        step(*arguments)
    except SystemExit as stop:
        return _code_of(stop.code)
    except BaseException as error:  # noqa: BLE001 (every exception is the program's)
        _show(error)
        return 1
    return None


def _code_of(code: Any) -> int:
    if code is None:
        return 0
    if issubclass(type(code), int):  # `isinstance` believes what an object says
        return int.__and__(code, 0xFF)
    with suppress(BaseException):
        print(code, file=sys.stderr)  # noqa: T201 (as Python does)
    return 1


def _show(error: BaseException) -> None:
    """Print the traceback without the frames of this file."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == HARNESS:
        traceback = traceback.tb_next
    try:
        BaseException.with_traceback(error, traceback)
        sys.tracebacklimit = _FRAMES
        sys.excepthook(type(error), error, traceback)
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 (nothing is left to tell)
        _write(2, f"{type(error).__name__}\n".encode("utf-8", "backslashreplace"))


def _leave(code: int, main: list[ModuleType]) -> NoReturn:
    """What an interpreter does at its end: wait for threads, `atexit`, flush, finalizers."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        if not _flush() and code == 0:
            code = 120
        sys.modules.pop("__main__", None)
        main.clear()
        gc.collect()
        _flush()
    except BaseException:  # noqa: BLE001
        code = code or 1
    finally:
        _exit(code)


def _flush() -> bool:
    good = True
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except BaseException:  # noqa: BLE001
            good = False
    return good
