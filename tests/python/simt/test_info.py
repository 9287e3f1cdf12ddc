"""The check of syncnorm.cupy over NCCL in `python -m syncnorm info --check`, on two devices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from support.cupy_on_host import array
from syncnorm import cupy as bn
from syncnorm.info import check, worker

SAMPLES = [2, 5]


@pytest.mark.usefixtures("pool")
def test_the_check_of_cupy(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bn, "xp", SimpleNamespace(asarray=array))
    devices = ["cuda:0", "cuda:1"]
    worker.main(worker.WorkerTask("cupy", "nccl", devices, SAMPLES, -1, str(tmp_path), 30.0))
    error, problem = check._compare(SAMPLES, tmp_path)
    assert problem is None
    assert error > 0
