"""Starting scripts as an ordinary user, where the tests themselves are run by root."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

USER = 12345


@cache
def public_interpreter() -> str:
    """An interpreter that any user can start; the one that runs the tests may lie in a private folder."""
    for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        code = f"import sys; assert sys.version_info >= (3, 11); open({str(Path(__file__).resolve())!r})"
        try:
            done = subprocess.run(
                [candidate, "-c", code], user=USER, group=USER, extra_groups=[], check=False, stderr=subprocess.DEVNULL
            )
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("an ordinary user can start no Python 3.11 here, or cannot read the tests")
