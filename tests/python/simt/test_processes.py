"""Communicators over NCCL and the end of a process, forks, and the library that is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.packaged_nccl import WITHOUT_PACKAGE, packaged_library

HEAD = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import syncnorm
from support.nccl_ranks import Vector, join
from syncnorm.comm import from_nccl_id, nccl_group, nccl_unique_id
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "program",
    [
        "comm = join(1)[0]",
        "comms = join(2)",
        "comm = join(1)[0]; Vector(0, [1]).sum(comm)",
        "held = [join(1)]; held.append(held)",
        "comm = join(1)[0]; sys.modules['kept'] = comm",
        "comm = join(1)[0]; comm.abort('late')",
    ],
)
def test_exit_with_live_communicators(program):
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("how", ["pass", "os._exit(0)", "sys.exit(0)"])
@pytest.mark.parametrize("setting", ["STALL", "HANG"])
def test_exit_with_a_library_that_does_not_answer(how, setting):
    program = f"""
vector = Vector(0, [1])
comm = join(1, sum_timeout=1)[0]
import ctypes
double = ctypes.CDLL(os.environ["SYNCNORM_NCCL_LIBRARY"])
double.nccl_double_set(b"{setting}", b"AllReduce,CommFinalize")
try:
    vector.enqueue(comm)
except syncnorm.CommunicatorTimeoutError:
    pass
{how}
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_is_told_so():
    program = """
comm = join(1)[0]
child = os.fork()
if child == 0:
    try:
        Vector(0, [1]).enqueue(comm)
    except syncnorm.UnsupportedError as error:
        os.write(1, str(error).encode())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert Vector(0, [2]).sum(comm) == [2]
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "forked" in done.stdout


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"SYNCNORM_NCCL_LIBRARY": "/nowhere/libnccl.so.2"}, ["/nowhere/libnccl.so.2"]),
        ({"NCCL_DOUBLE_VERSION": "21705"}, ["2.17.5", "2.18 or newer"]),
    ],
)
def test_a_library_that_cannot_be_used(environment, parts):
    done = run("nccl_unique_id()", **environment)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("syncnorm.UnsupportedError")
    for part in (*parts, "nvidia-nccl-cu13"):
        assert part in message


@pytest.mark.skipif(packaged_library() is None, reason=WITHOUT_PACKAGE)
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there the device is a real one")
def test_the_real_library_is_honest_about_the_device():
    """It has the functions that are asked for, and does not take the simulated device for one."""
    version, path = packaged_library()
    program = """
assert len({nccl_unique_id() for _ in range(3)}) == 3
for call in (lambda: from_nccl_id(nccl_unique_id(), 0, 1, 0), nccl_group):
    try:
        call()
    except syncnorm.NcclError as error:
        print(error)
print(syncnorm.capabilities()["nccl"])
"""
    done = run(program, SYNCNORM_NCCL_LIBRARY=str(path))
    assert (done.returncode, done.stderr) == (0, "")
    *errors, found = done.stdout.splitlines()
    assert found == f"{version} ({path})"
    assert len(errors) == 2
    for error in errors:
        assert "ncclCommInitRankConfig" in error
        assert "CUDA driver version is insufficient" in error


def test_info_tells_what_is_found(double_path):
    done = subprocess.run(
        [sys.executable, "-m", "syncnorm", "info"], capture_output=True, text=True, check=True
    )
    assert "CUDA     built; 2 usable devices" in done.stdout
    assert f"NCCL     2.28.9 ({double_path})" in done.stdout


def test_a_driver_that_is_too_old_is_named():
    program = """
from support import simulated_cuda
from syncnorm.info.report import collect, text
simulated_cuda.set_driver_version(12040)
found = syncnorm.capabilities()
print(found["cuda_devices"], found["cuda_problem"])
print(next(line for line in text(collect()).splitlines() if line.startswith("CUDA")))
for call in (nccl_group, lambda: from_nccl_id(bytes(128), 0, 1, 0)):
    try:
        call()
    except syncnorm.CudaError as error:
        print(error)
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    capability, line, *errors = done.stdout.splitlines()
    count, _, problem = capability.partition(" ")
    assert count == "0"
    assert problem.startswith("the NVIDIA driver is too old: it supports CUDA 12.4")
    assert line == f"CUDA     built; no usable device: {problem}"
    assert errors == [f"no usable CUDA device: {problem}"] * 2
