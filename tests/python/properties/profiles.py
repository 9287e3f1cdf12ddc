"""Profiles of hypothesis: few and always the same examples, or many.

Import this before hypothesis decorates a function: a function keeps the profile of that time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A case of four ranks takes longer than hypothesis expects, above all on a busy machine.
_COMMON = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("short", derandomize=True, max_examples=40, **_COMMON)
settings.register_profile("long", max_examples=3000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
