"""The checkpoint of the recipe for Ultralytics loads where syncnorm is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import run_script

LOAD = """
import sys
sys.modules["syncnorm"] = None  # an import fails
import torch
from ultralytics import YOLO
for name in ("last", "best"):
    model = YOLO(next(iter(__import__("pathlib").Path(".").rglob(f"{name}.pt"))))
    kinds = {type(layer) for layer in model.model.modules() if hasattr(layer, "running_mean")}
    assert kinds == {torch.nn.BatchNorm2d}, kinds
"""


def test_checkpoints_need_no_syncnorm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    run_script("ultralytics_training.py", folder=tmp_path)
    subprocess.run([sys.executable, "-c", LOAD], check=True, timeout=120, cwd=tmp_path)
