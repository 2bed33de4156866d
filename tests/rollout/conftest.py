"""The policies that engines are tested with."""

from __future__ import annotations

import pytest

from latentpad.models.policy import Policy
from tests import tiny


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def policy(request: pytest.FixtureRequest) -> Policy:
    """One that sees only distances between tokens (rotary positions), and one that sees where a token stands."""
    return tiny.policy(sizes=tiny.SIZES.model_copy(update={"architecture": request.param}))
