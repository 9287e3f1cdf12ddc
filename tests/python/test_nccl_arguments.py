"""Communicators over NCCL where there is none to be had: refused arguments, and clear errors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import syncnorm
from syncnorm import _core
from syncnorm.comm import borrow_nccl, from_nccl_id, nccl_group, nccl_unique_id

ID = bytes(128)
CREATORS = {
    "from_nccl_id": lambda **options: from_nccl_id(ID, 0, 1, 0, **options),
    "NCCL_COMM_ID": lambda **options: from_nccl_id(None, 0, 1, 0, **options),
    "nccl_group": lambda **options: nccl_group([0], **options),
    "borrow_nccl": lambda **options: borrow_nccl(0x1000, **options),
}


@pytest.mark.parametrize("size", [0, 127, 129])
def test_an_id_of_another_length(size):
    with pytest.raises(syncnorm.InvalidArgumentError, match=rf"^id: got {size} bytes, .* 128"):
        from_nccl_id(bytes(size), 0, 1, 0)


@pytest.mark.parametrize("id", ["x" * 128, bytearray(128), [0] * 128])
def test_what_is_no_id(id):
    with pytest.raises(syncnorm.ArgumentTypeError, match=r"^id: got builtins\.\w+, expected"):
        from_nccl_id(id, 0, 1, 0)


@pytest.mark.parametrize("creator", CREATORS)
@pytest.mark.parametrize(
    "option",
    [
        *({"init_timeout": value} for value in (0, -1, float("nan"))),
        *({"sum_timeout": value} for value in (0, -1, float("nan"))),
        *({"max_ctas": value} for value in (0, -1)),
    ],
    ids=str,
)
def test_options_out_of_range(creator, option):
    (name,) = option
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"^{name}: got "):
        CREATORS[creator](**option)


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError):
        from_nccl_id(ID, 0, 1, 0, timeout=3)


def test_a_group_without_devices():
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^devices: got an empty sequence"):
        nccl_group([])


@pytest.mark.skipif(_core.capabilities()["cuda_built"], reason="this build has CUDA kernels")
@pytest.mark.parametrize("call", [nccl_unique_id, nccl_group, *CREATORS.values()])
def test_a_build_without_cuda_says_so(call):
    with pytest.raises(syncnorm.UnsupportedError, match="CUDA"):
        call()


def error_with_library(library: object) -> str:
    """What nccl_unique_id says in a process where `library` is the NCCL to use."""
    done = subprocess.run(
        [sys.executable, "-c", "from syncnorm.comm import nccl_unique_id; nccl_unique_id()"],
        env={**os.environ, "SYNCNORM_NCCL_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.fixture(name="old_nccl", scope="module")
def library_of_an_old_version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    source, library = folder / "nccl.c", folder / "libnccl.so.2"
    source.write_text("int ncclGetVersion(int* v) { *v = 21705; return 0; }\n", encoding="utf-8")
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


needs_cuda = pytest.mark.skipif(
    not _core.capabilities()["cuda_built"],
    reason="without CUDA in the build no NCCL is asked for; test_a_build_without_cuda_says_so",
)


@needs_cuda
def test_a_library_that_does_not_exist_is_named():
    message = error_with_library("/nowhere/libnccl.so.2")
    assert message.startswith("syncnorm.UnsupportedError")
    assert "/nowhere/libnccl.so.2" in message


@needs_cuda
def test_a_library_that_is_too_old_is_named(old_nccl):
    message = error_with_library(old_nccl)
    assert message.startswith("syncnorm.UnsupportedError")
    for part in ("2.17.5", "2.18", str(old_nccl)):
        assert part in message


def info_with_library(library: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "syncnorm", "info"],
        env={**os.environ, "SYNCNORM_NCCL_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_info_names_the_library(old_nccl):
    assert f"2.17.5 ({old_nccl})" in info_with_library(old_nccl)


def test_info_names_the_library_that_cannot_be_loaded():
    expected = "NCCL     not found: SYNCNORM_NCCL_LIBRARY names /nowhere/libnccl.so.2"
    assert expected in info_with_library(Path("/nowhere/libnccl.so.2"))


def test_another_copy_in_the_process_is_told(old_nccl):
    program = f"""
import ctypes, syncnorm
from syncnorm.info.report import collect, text
assert not syncnorm.capabilities()["other_nccl"]
held = ctypes.CDLL({str(old_nccl)!r})
assert syncnorm.capabilities()["other_nccl"] == [{str(old_nccl)!r}]
assert "{old_nccl}: another copy in this process" in text(collect())
"""
    # Found first: what the process has loaded when syncnorm first looks is what it uses.
    environment = {**os.environ, "SYNCNORM_NCCL_LIBRARY": "/nowhere/libnccl.so.2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
