"""These tests need a CUDA device, and the package with its CUDA backend: tools/gpu_check.sh."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import syncnorm

sys.path.insert(0, str(Path(__file__).parent))
# Helpers that the tests on the CPU have too.
sys.path.insert(0, str(Path(__file__).parents[1] / "torch"))


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("collectonly"):
        return
    found = syncnorm.capabilities()
    if not found["cuda_built"] or found["cuda_devices"] == 0 or not torch.cuda.is_available():
        raise pytest.UsageError(
            f"these tests need a CUDA device: syncnorm has a CUDA backend: {found['cuda_built']},"
            f" and sees {found['cuda_devices']} devices ({found['cuda_problem'] or 'usable'});"
            f" torch {torch.__version__} sees {torch.cuda.device_count()} devices."
            " --collect-only lists the tests"
        )


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(20)
