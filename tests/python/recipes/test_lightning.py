"""syncnorm.torch.lightning with both of Lightning's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import problems
import pytest
import torch
from scripts import run_script
from torch import nn

import syncnorm
import syncnorm.torch
from syncnorm.torch.lightning import SyncBatchNorm


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_two_devices_are_like_one_process(package: str, tmp_path: Path) -> None:
    run_script("lightning_training.py", package, "result.pt", folder=tmp_path)
    result = torch.load(tmp_path / "result.pt")
    assert result["world"] == 2
    assert result["seen"] == ["SyncBatchNorm1d", "SyncBatchNorm2d"]
    kinds = [type(layer).__qualname__ for layer in problems.network().modules()]
    assert result["after"][1:] == [*kinds, "SyncBatchNorm2d"]
    problems.check(result["state"])


def test_the_plugin_is_a_layer_sync_of_a_package_imported_later() -> None:
    program = """
from syncnorm.torch.lightning import SyncBatchNorm
from pytorch_lightning.plugins.layer_sync import LayerSync
assert isinstance(SyncBatchNorm(), LayerSync)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_options_reach_the_layers_and_are_checked() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    plugin = SyncBatchNorm(eps_mode="max", timeout=5.0)
    assert plugin.apply(model) is model
    assert (model[0].eps_mode, model[0].timeout) == ("max", 5.0)
    with pytest.raises(syncnorm.InvalidArgumentError, match="eps_mode"):
        SyncBatchNorm(eps_mode="other")
    with pytest.raises(syncnorm.InvalidArgumentError, match="group_size"):
        SyncBatchNorm(group_size=0)
    pairs = SyncBatchNorm(group_size=2).apply(nn.BatchNorm2d(3))
    assert pairs.process_group == syncnorm.torch.SyncBatchNorm2d(3, group_size=2).process_group


def test_revert_leaves_other_layers_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), syncnorm.torch.SyncBatchNorm2d(3))
    plugin = SyncBatchNorm()
    plugin.revert(model)
    assert type(model[1]) is syncnorm.torch.SyncBatchNorm2d
    plugin.revert(plugin.apply(model))
    assert type(model[0]) is nn.BatchNorm2d
    assert type(model[1]) is syncnorm.torch.SyncBatchNorm2d


def test_syncnorm_does_not_import_lightning() -> None:
    program = """
import sys
import syncnorm.torch
assert not {"lightning", "pytorch_lightning"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
