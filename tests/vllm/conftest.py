"""Before vLLM is imported by a test file: no telemetry, errors alone."""

from __future__ import annotations

import os

for name, value in {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}.items():
    os.environ.setdefault(name, value)
