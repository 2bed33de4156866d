"""Landlock: of all files, a program may read those of the standard library."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reward.sandbox.syscalls import Architecture

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many file rights each ABI knows; from 4 on it governs TCP too, from 6 on signals and abstract sockets.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16, 7: 16}
_NEWEST = max(_FILE_RIGHTS)
_NOT_STDLIB = ("site-packages", "dist-packages")
_libc = ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: ctypes._SimpleCData[int] | bytes | None) -> int:
    _libc.syscall.restype = ctypes.c_long
    value = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return value


def abi(arch: Architecture) -> int:
    """The kernel's Landlock version, or 0 if there is none."""
    try:
        number = arch.numbers["landlock_create_ruleset"]
        return _syscall(number, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


def ruleset(arch: Architecture, version: int, folders: Iterable[str]) -> int:
    """A descriptor of the rules: read files below these folders, but not below their `site-packages`.

    Everything else that the kernel's version knows is denied: writing, executing, TCP, signals to other processes.
    Installed packages are left out since they may hold what a program must not see, such as a grader's data.
    """
    known = min(version, _NEWEST)
    attributes = [(1 << _FILE_RIGHTS[known]) - 1]
    if known >= 4:
        attributes.append(0b11)
    if known >= 6:
        attributes.append(0b11)
    data = struct.pack(f"={len(attributes)}Q", *attributes)
    rules = _syscall(arch.numbers["landlock_create_ruleset"], data, ctypes.c_size_t(len(data)), ctypes.c_uint32(0))
    for folder in folders:
        _allow(arch, rules, folder, _READ_DIR)
        for entry in os.scandir(folder):
            if entry.name in _NOT_STDLIB:
                continue
            if entry.is_dir(follow_symlinks=False):
                _allow(arch, rules, entry.path, _READ_FILE | _READ_DIR)
            elif entry.is_file():
                _allow(arch, rules, entry.path, _READ_FILE)
    return rules


def _allow(arch: Architecture, rules: int, path: str, rights: int) -> None:
    target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        data = struct.pack("=Qi", rights, target)
        _syscall(arch.numbers["landlock_add_rule"], ctypes.c_int(rules), ctypes.c_int(1), data, ctypes.c_uint32(0))
    finally:
        os.close(target)


def restrict(arch: Architecture, version: int, rules: int) -> None:
    """Put this process under the rules, for good. Needs `no_new_privs`."""
    # From ABI 7 on denials go to the audit log unless one says otherwise: a hostile program would fill it.
    quiet = 1 if version >= 7 else 0
    _syscall(arch.numbers["landlock_restrict_self"], ctypes.c_int(rules), ctypes.c_uint32(quiet))
