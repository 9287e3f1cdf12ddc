"""Profiles of hypothesis: few and always the same examples, or many with --exhaustive.

HYPOTHESIS_PROFILE=long does the same as --exhaustive. A failing example is printed, with a
@reproduce_failure decorator that runs it alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

# A case of four ranks takes longer than hypothesis expects, above all on a busy machine.
_COMMON = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("short", derandomize=True, max_examples=40, **_COMMON)
settings.register_profile("long", max_examples=3000, **_COMMON)


def pytest_configure(config: pytest.Config) -> None:
    chosen = "long" if config.getoption("--exhaustive") else "short"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", chosen))
