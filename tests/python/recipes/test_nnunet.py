"""nnU-Net finds the trainer of its recipe by name, as its command does in every process."""

from __future__ import annotations

from pathlib import Path

import pytest
from page import recipe
from torch import nn

import syncnorm.torch


def test_the_trainer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    (tmp_path / "trainers.py").write_text(recipe("nnU-Net"), encoding="utf-8")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    try:
        kind = recursive_find_trainer_class_by_name("nnUNetTrainerSyncBN")
        assert isinstance(nn.SyncBatchNorm(3), syncnorm.torch.SyncBatchNorm)
    finally:
        syncnorm.torch.uninstall()
    assert kind.__mro__[1].__name__ == "nnUNetTrainerBN"
