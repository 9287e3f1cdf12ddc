"""The real libnccl, from its package: found, complete, honest where there is no device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.packaged_nccl import WITHOUT_PACKAGE, packaged_library
from syncnorm import _core

FOUND = _core.capabilities()

pytestmark = pytest.mark.skipif(packaged_library() is None, reason=WITHOUT_PACKAGE)


def run(program: str, **environment: str) -> str:
    """What a fresh process prints: which library is used is decided once."""
    inherited = {k: v for k, v in os.environ.items() if k != "SYNCNORM_NCCL_LIBRARY"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import syncnorm.comm as comm, syncnorm\n{program}"],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run_with_packaged_library(program: str) -> str:
    _, path = packaged_library()
    return run(program, SYNCNORM_NCCL_LIBRARY=str(path))


TELL = "print(syncnorm.capabilities()['nccl'])"


def test_version_and_path_are_told():
    version, path = packaged_library()
    assert run_with_packaged_library(TELL) == f"{version} ({path})"


def test_the_package_beside_this_one_is_found():
    version, path = packaged_library()
    site_packages = Path(FOUND["library"]).parents[2]
    if path.parents[3] != site_packages:
        pytest.skip("syncnorm is not installed where the package of NCCL is")
    assert run(TELL) == f"{version} ({path})"


ERROR = """
try:
    {call}
except syncnorm.Error as error:
    print(type(error).__name__, error)
else:
    print("no error")
"""


@pytest.mark.skipif(FOUND["cuda_built"], reason="this build has CUDA kernels")
def test_it_is_not_used_in_a_build_without_cuda():
    output = run_with_packaged_library(ERROR.format(call="comm.nccl_unique_id()"))
    assert output.startswith("UnsupportedError")
    assert "CUDA" in output


@pytest.mark.skipif(not FOUND["cuda_built"], reason="this build has no CUDA kernels")
def test_unique_ids_are_distinct():
    output = run_with_packaged_library("for _ in range(3): print(comm.nccl_unique_id().hex())")
    ids = output.split()
    assert [len(id) for id in ids] == [256] * 3
    assert len(set(ids)) == 3


@pytest.mark.skipif(
    not FOUND["cuda_built"] or FOUND["cuda_devices"] > 0,
    reason="for a build with CUDA on a machine without a device",
)
@pytest.mark.parametrize(
    "call",
    [
        "comm.from_nccl_id(comm.nccl_unique_id(), 0, 1, 0, init_timeout=60)",
        "comm.nccl_group(init_timeout=60)",
    ],
)
def test_without_a_device_the_error_is_of_cuda(call):
    kind, _, message = run_with_packaged_library(ERROR.format(call=call)).partition(" ")
    assert kind in ("CudaError", "NcclError")
    assert "device" in message or "driver" in message
