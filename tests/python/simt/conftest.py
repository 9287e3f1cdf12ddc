"""These tests run the CUDA sources on the CPU: the package of a build with SYNCBN_SIMT.

A device's memory is the host's. libnccl is the double of tests/cpp/doubles, whose header says what
its settings are.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncbn import _core

BUILD = Path(_core.__file__).resolve().parents[2]
DOUBLE = BUILD / "tests/cpp/libnccl_double.so"


def pytest_sessionstart(session: pytest.Session) -> None:
    cache = BUILD / "CMakeCache.txt"
    if not cache.exists() or "SYNCBN_SIMT:BOOL=ON" not in cache.read_text(encoding="utf-8"):
        raise pytest.UsageError(
            f"{_core.__file__} is not of a build with SYNCBN_SIMT, which tests/python/simt needs:"
            " run `make simt`"
        )
    # Before the first communicator: the library that is found stays.
    os.environ["SYNCBN_NCCL_LIBRARY"] = str(DOUBLE)


class NcclDouble:
    """What tests say to the double, and ask it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(DOUBLE))  # the one that syncbn has loaded
        for name in ("calls", "alive", "misuses"):
            self.library[f"nccl_double_{name}"].restype = ctypes.c_long

    def set(self, **settings: object) -> None:
        for name, value in settings.items():
            self.library.nccl_double_set(name.encode(), str(value).encode())

    def calls(self, function: str) -> int:
        return self.library.nccl_double_calls(function.encode())

    @property
    def alive(self) -> int:
        return self.library.nccl_double_alive()

    @property
    def misuses(self) -> int:
        return self.library.nccl_double_misuses()

    def reset(self) -> None:
        self.library.nccl_double_reset()


@pytest.fixture(scope="session", name="loaded_double")
def double_of_this_process() -> NcclDouble:
    return NcclDouble()


@pytest.fixture(autouse=True, name="double")
def fresh_double(loaded_double: NcclDouble) -> Iterator[NcclDouble]:
    """Every test ends its communicators, and calls NCCL with none that is at its end."""
    loaded_double.reset()
    yield loaded_double
    gc.collect()
    misuses, alive = loaded_double.misuses, loaded_double.alive
    loaded_double.reset()
    assert (misuses, alive) == (0, 0)


@pytest.fixture(name="double_path", scope="session")
def path_of_the_double() -> Path:
    return DOUBLE
