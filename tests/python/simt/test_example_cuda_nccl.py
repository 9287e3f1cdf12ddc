"""Example 04, compiled as it is and linked with simulated devices and the double of libnccl."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.cmake_project import build
from support.packaged_nccl import WITHOUT_PACKAGE, packaged_library
from syncnorm import _core

ROOT = Path(__file__).parents[3]
CORE = Path(_core.__file__).resolve().parents[2] / "core"
PACKAGE = f"""
add_library(syncnorm::syncnorm SHARED IMPORTED)
set_target_properties(syncnorm::syncnorm PROPERTIES
  IMPORTED_LOCATION "{CORE}/libsyncnorm.so"
  INTERFACE_INCLUDE_DIRECTORIES "{ROOT}/core/include")
"""
CHECKED = ["y", "dx", "summed gradients", "running statistics"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", name="run")
def run_of_the_example(tmp_path_factory: pytest.TempPathFactory, double_path: Path) -> Run:
    package = packaged_library()
    if package is None:
        pytest.skip(WITHOUT_PACKAGE)
    found = tmp_path_factory.mktemp("found")
    (found / "syncnormConfig.cmake").write_text(PACKAGE, encoding="utf-8")
    program = build(
        ROOT / "examples/04_cuda_nccl",
        tmp_path_factory.mktemp("built"),
        f"-Dsyncnorm_DIR={found}",
        f"-DNCCL_ROOT={package[1].parents[1]}",  # for its header
        f"-DNCCL_LIBRARY={double_path}",
        f"-DCUDART_LIBRARY={CORE}/libsyncnorm_simt.so",
    )

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program / "04_cuda_nccl", *arguments],
            env={**os.environ, "SYNCNORM_NCCL_LIBRARY": str(double_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_give_what_one_batch_gives(run: Run, ranks: int, double_path: Path) -> None:
    done = run(str(ranks), SIMT_SEED="5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"ranks: {ranks}, NCCL: 2.28.9 ({double_path})\n")
    lines = re.findall(r"^  (\S.*?) +(\S+) of (\S+) allowed$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in lines] == CHECKED
    assert all(float(largest) <= float(allowed) < 1e-4 for _, largest, allowed in lines)


def test_every_device_is_a_rank_unless_told_otherwise(run: Run) -> None:
    assert run().stdout.startswith("ranks: 2, ")
    refused = run("3")
    assert refused.returncode == 1
    assert refused.stderr == "3 ranks asked for, expected 1 to 2: one device each\n"


def test_a_rank_that_fails_ends_the_others(run: Run) -> None:
    done = run(NCCL_DOUBLE_FAIL="AllReduce:3:6")
    assert done.returncode == 1
    assert re.match(r"rank [01]: .*remote process exited", done.stderr)
