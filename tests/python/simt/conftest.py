"""These tests run the CUDA sources on the CPU: the package of a build with SYNCNORM_SIMT.

A device's memory is the host's. libnccl is the double of tests/cpp/doubles, whose header says what
its settings are.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncnorm import _core

BUILD = Path(_core.__file__).resolve().parents[2]
DOUBLE = BUILD / "tests/cpp/libnccl_double.so"


def pytest_sessionstart(session: pytest.Session) -> None:
    cache = BUILD / "CMakeCache.txt"
    if not cache.exists() or "SYNCNORM_SIMT:BOOL=ON" not in cache.read_text(encoding="utf-8"):
        raise pytest.UsageError(
            f"{_core.__file__} is not of a build with SYNCNORM_SIMT, which tests/python/simt needs:"
            " run `make simt`"
        )
    # Before the first communicator: the library that is found stays.
    os.environ["SYNCNORM_NCCL_LIBRARY"] = str(DOUBLE)


class NcclDouble:
    """What tests say to the double, and ask it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(DOUBLE))  # the one that syncnorm has loaded
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


@pytest.fixture(name="pool")
def memory_of_cupy() -> Iterator[Any]:
    """CuPy and syncnorm.cupy run without a driver; the pool that CuPy's arrays are made from."""
    from support.cupy_on_host import cupy_on_host

    with cupy_on_host() as pool:
        yield pool


class UniqueId(ctypes.Structure):
    _fields_ = (("internal", ctypes.c_char * 128),)


class Config(ctypes.Structure):
    """ncclConfig_t of NCCL 2.18."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("numbers", ctypes.c_int * 4),
        ("net_name", ctypes.c_char_p),
        ("split_share", ctypes.c_int),
    )


UNDEFINED = -(2**31)


@pytest.fixture(name="foreign")
def communicator_of_the_trainer(double):
    """The address of an ncclComm_t of a group of one, which stays its maker's."""
    id, comm = UniqueId(), ctypes.c_void_p()
    config = Config(ctypes.sizeof(Config), 0xCAFEBEEF, 21800, (UNDEFINED,) * 4, None, UNDEFINED)
    made = ctypes.byref(comm), 1, id, 0, ctypes.byref(config)
    assert double.library.ncclGetUniqueId(ctypes.byref(id)) == 0
    assert double.library.ncclCommInitRankConfig(*made) == 0
    yield comm.value
    assert double.library.ncclCommDestroy(comm) == 0
