"""Chooses the profile of hypothesis: "short", or "long" with --exhaustive.

HYPOTHESIS_PROFILE=long does the same as --exhaustive.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--exhaustive"):
        os.environ["HYPOTHESIS_PROFILE"] = "long"  # also of processes that tests start
    import profiles  # noqa: F401 - loads one


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave hypothesis the five minutes that it may take to reduce a failing example."""
    seconds = 0 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 600
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(seconds))
