"""Runs programs that a model wrote, and lets nothing out but what they print.

>>> with Sandbox(Limits(cpu_seconds=1)) as sandbox:
...     sandbox.run("print(6 * 7)").stdout
'42\\n'
"""

from reward.sandbox.sandbox import Sandbox
from reward.sandbox.shared import configure, shared
from reward.sandbox.types import ExecutionResult, Limits, Run, SandboxUnavailable, Settings, Status, Tier

__all__ = [
    "ExecutionResult",
    "Limits",
    "Run",
    "Sandbox",
    "SandboxUnavailable",
    "Settings",
    "Status",
    "Tier",
    "configure",
    "shared",
]
