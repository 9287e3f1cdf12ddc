"""What the tests are to have at hand, so that none is skipped where all should run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_test_group_brings_the_real_nccl() -> None:
    """test_nccl_library.py needs it; the version is the one that torch's CUDA wheels ask for."""
    groups = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[dependency-groups]")
    test = re.search(r"^test = \[(.*?)^\]", groups[2], re.DOTALL | re.MULTILINE)
    assert test is not None
    assert "nvidia-nccl-cu13>=2.18; sys_platform == 'linux'" in test[1]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("nvidia-nccl-cu13==") for line in pinned)
