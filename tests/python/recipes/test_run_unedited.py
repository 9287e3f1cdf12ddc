"""Tools and scripts without a line of syncnorm, under `python -m syncnorm run`."""

from __future__ import annotations

from pathlib import Path

import problems
import torch
from scripts import run_python

SCRIPT = Path(__file__).with_name("unedited_training.py")

CONVERTERS = """
import mmengine.model
import timm
import torch

for convert, name in (
    (timm.layers.convert_sync_batchnorm, "resnet18"),
    (timm.layers.convert_sync_batchnorm, "mobilenetv3_small_050"),  # with timm's BatchNormAct2d
    (mmengine.model.convert_sync_batchnorm, "resnet18"),
):
    model = timm.create_model(name)
    x = torch.randn(4, 3, 64, 64)
    expected = model(x)
    model = convert(model)
    norms = [each for each in model.modules() if hasattr(each, "running_mean")]
    assert len(norms) > 15
    for each in norms:
        assert any(kind.__module__ == "syncnorm.torch.layer" for kind in type(each).__mro__)
        assert isinstance(each, torch.nn.SyncBatchNorm)
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)
"""


def run(folder: Path, *arguments: str) -> None:
    run_python("-m", "syncnorm", "run", *arguments, folder=folder, GLOO_SOCKET_IFNAME="lo")


def test_the_switch_of_lightning(tmp_path: Path) -> None:
    """Lightning itself starts the script again for the second rank."""
    run(tmp_path, str(SCRIPT), "result.pt")
    result = torch.load(tmp_path / "result.pt")
    ours = "syncnorm.torch.layer.SyncBatchNorm"
    assert result["seen"] == [f"{ours}1d", f"{ours}2d"]
    problems.check(result["state"])


def test_the_converters_of_timm_and_mmengine(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CONVERTERS)
    run(tmp_path, "script.py")
