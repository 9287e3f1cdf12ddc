"""Code that looks for normalization layers by their class finds converted ones."""

from __future__ import annotations

from typing import Any

import problems
import pytest
import torch
from page import recipe
from torch import nn

import syncnorm.torch


def test_detectron2_finds_the_layers() -> None:
    """With the stand-in for detectron2 in stand_ins."""
    model = problems.network().eval()
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    norms = {id(p) for each in (model[1], model[5]) for p in each.parameters()}
    names: dict[str, Any] = {"model": model}
    exec(recipe("detectron2 and fvcore", 1), names)
    without_decay = next(group for group in names["parameters"] if group["weight_decay"] == 0)
    assert {id(p) for p in without_decay["params"]} == norms
    assert type(model[1]) is names["FrozenBatchNorm2d"]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_precise_bn_finds_the_layers(kind: str) -> None:
    from fvcore.nn.precise_bn import get_bn_modules

    model = syncnorm.torch.convert_sync_batchnorm(nn.Sequential(getattr(nn, kind)(3)))
    assert get_bn_modules(model) == [model[0]]
