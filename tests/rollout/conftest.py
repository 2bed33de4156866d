"""The policy that engines are tested with."""

from __future__ import annotations

import pytest

from latentpad.models.policy import Policy
from tests import tiny


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny.policy()
