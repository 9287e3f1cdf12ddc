"""Communicators of CuPy and nccl4py borrowed: alive as long as ours, and never destroyed by us."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref

import pytest

from support.nccl_ranks import Vector
from support.packaged_nccl import WITHOUT_PACKAGE, packaged_library
from syncnorm.comm import borrow_nccl


class LikeCupy:
    """As cupy.cuda.nccl.NcclCommunicator."""

    def __init__(self, address: int) -> None:
        self.comm = address


class LikeNccl4py:
    """As nccl.core.Communicator."""

    def __init__(self, address: int) -> None:
        self.ptr = address


@pytest.fixture(name="owner", params=[LikeCupy, LikeNccl4py])
def object_of_the_trainer(request, foreign):
    return request.param(foreign)


def test_it_sums(owner):
    with borrow_nccl(owner) as comm:
        assert (comm.rank, comm.size, comm.kind) == (0, 1, "nccl")
        assert Vector(0, [3]).sum(comm) == [3]


def test_the_object_lives_as_long(double, foreign):
    owner = LikeCupy(foreign)
    gone = weakref.ref(owner)
    comm = borrow_nccl(owner)
    del owner
    gc.collect()
    assert gone() is not None
    assert Vector(0, [3]).sum(comm) == [3]
    comm.close()
    del comm
    gc.collect()
    assert gone() is None
    assert double.alive == 1  # it is the trainer's


def test_a_part_is_its_own(double, foreign):
    with borrow_nccl(LikeCupy(foreign)) as comm:
        part = comm.split(0)
    del comm
    with part:
        assert Vector(0, [4]).sum(part) == [4]
    assert double.alive == 1


@pytest.mark.skipif(packaged_library() is None, reason=WITHOUT_PACKAGE)
def test_an_object_of_another_library_is_refused(double_path):
    """CuPy has the real NCCL, and syncnorm the double."""
    _, library = packaged_library()
    program = f"""
import ctypes
import syncnorm
from syncnorm.comm import borrow_nccl, nccl_unique_id
nccl_unique_id()  # finds the library that stays
held = ctypes.CDLL({str(library)!r})
class Communicator:
    comm = 0x1000
try:
    borrow_nccl(Communicator())
except syncnorm.InvalidArgumentError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "SYNCNORM_NCCL_LIBRARY": str(double_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "expected one made by the copy that syncnorm uses",
        str(double_path),
        str(library),
    ):
        assert part in done.stdout
