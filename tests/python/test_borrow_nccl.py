"""Which objects borrow_nccl takes for an ncclComm_t, and what it makes of them."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import syncnorm
from support.packaged_nccl import WITHOUT_PACKAGE, packaged_library
from syncnorm import _core
from syncnorm.comm import borrow_nccl, nccl

ADDRESS = 0x1000


@pytest.fixture(name="one_copy", autouse=True)
def creation_that_only_records(monkeypatch):
    monkeypatch.setattr(_core, "borrow_nccl", lambda *given, **options: (given, options))
    monkeypatch.setattr(nccl, "capabilities", lambda: {"nccl": "2.29.7 (/a)", "other_nccl": []})


def test_an_address():
    assert borrow_nccl(ADDRESS, max_ctas=1) == ((ADDRESS,), {"max_ctas": 1})


@pytest.mark.parametrize("name", ["comm", "ptr"])
def test_an_object_is_its_address_and_the_owner(name):
    owner = SimpleNamespace(**{name: ADDRESS})
    (address, kept), options = borrow_nccl(owner, sum_timeout=None)
    assert (address, options) == (ADDRESS, {"sum_timeout": None})
    assert kept is owner


@pytest.mark.parametrize("name", ["comm", "ptr"])
def test_an_object_that_was_destroyed(name):
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"this types\.SimpleNamespace was"):
        borrow_nccl(SimpleNamespace(**{name: 0}))


@pytest.mark.parametrize("other", ["0x1000", None, 1.0, SimpleNamespace(comm="nccl")])
def test_what_is_no_communicator(other):
    with pytest.raises(
        syncnorm.ArgumentTypeError, match=r"^nccl_comm: got .*, expected a cupy\.cuda\.nccl\.Nccl"
    ):
        borrow_nccl(other)


def test_with_several_copies_of_nccl_nobody_knows(monkeypatch):
    found = {"nccl": "2.29.7 (/a)", "other_nccl": ["/b/libnccl.so.2"]}
    monkeypatch.setattr(nccl, "capabilities", lambda: found)
    with pytest.raises(
        syncnorm.InvalidArgumentError, match=r"2\.29\.7 \(/a\); also loaded: /b/libnccl\.so\.2"
    ):
        borrow_nccl(SimpleNamespace(comm=ADDRESS))
    assert borrow_nccl(ADDRESS) == ((ADDRESS,), {})


@pytest.mark.skipif(packaged_library() is None, reason=WITHOUT_PACKAGE)
def test_cupy_s_own_class():
    """It gives its address by this name, and uses the NCCL that the process has loaded."""
    program = """
import ctypes, sys
held = ctypes.CDLL(sys.argv[1])
from cupy.cuda.nccl import NcclCommunicator, get_version
import syncnorm
from syncnorm.comm import borrow_nccl
print(get_version(), syncnorm.capabilities()["nccl"], syncnorm.capabilities()["other_nccl"])
try:
    borrow_nccl(NcclCommunicator.__new__(NcclCommunicator))
except syncnorm.InvalidArgumentError as error:
    print(error)
"""
    version, library = packaged_library()
    done = subprocess.run(
        [sys.executable, "-c", program, library],
        env={name: value for name, value in os.environ.items() if name != "SYNCNORM_NCCL_LIBRARY"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, refused = done.stdout.splitlines()
    major, minor, patch = map(int, version.split("."))
    code = 10000 * major + 100 * minor + patch
    assert found == f"{code} {version} ({library}) []"
    assert refused.startswith("nccl_comm: this cupy_backends.cuda.libs.nccl.NcclCommunicator was")
