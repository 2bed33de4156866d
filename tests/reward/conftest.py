"""Examples are not timed one by one: a busy machine is no finding. What must be fast is timed where it is said."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
