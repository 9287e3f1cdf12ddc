"""The helpers next to this file are importable, and every test starts from the same numbers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(20)
        yield


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Any]:
    """Worlds by their scenarios and size, each run once for all files of tests that ask for it."""
    from worlds import World

    @functools.cache
    def world(scenarios: str, size: int) -> World:
        return World(size, tmp_path_factory.mktemp(f"{scenarios}_{size}"), scenarios)

    return world
