"""Prints what each tier is like where this runs, as JSON; `restricted.py` starts it."""

from __future__ import annotations

import json
import sys

from reward.sandbox import Sandbox, SandboxUnavailable, Settings
from reward.sandbox.selftest import selftest

found = []
for landlock in (True, False):
    try:
        with Sandbox(cache_size=0, settings=Settings(slots=1), _landlock=landlock) as sandbox:
            imports = sandbox.run("import wave, json, csv; print(wave.__name__)").status
            threads = sandbox.run("import threading; threading.Thread(target=print, args=(1,)).start()").stdout
            found.append([sandbox.tier, selftest(sandbox.run), imports, threads, sandbox.describe()])
    except SandboxUnavailable as error:
        found.append([f"unavailable: {error}"])
sys.stdout.write(json.dumps(found))
