"""What the layer refuses, and the words it finds for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import syncnorm
from syncnorm.torch import SyncBatchNorm


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean"])
def test_float64_parameter_with_float32_input_is_named(name: str) -> None:
    layer = SyncBatchNorm(5)
    getattr(layer, name).data = getattr(layer, name).data.double()
    with pytest.raises(ValueError, match=name):
        layer(torch.randn(4, 5))
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (torch.zeros(5), "at least 2D input .got 1D"),
        (torch.zeros(2, 4, 3), r"expected 5 channels .*\(got 4 .*\(2, 4, 3\)"),
        (torch.zeros(2, 5, dtype=torch.int64), "int64"),
    ],
)
def test_refused_inputs(input: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm(5)(input)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"residual": torch.zeros(4, 5, 1)}, r"residual: got shape \(4, 5, 1\)"),
        ({"residual": torch.zeros(4, 5, 3).double()}, "residual: .*float64.*float32"),
        ({"mask": torch.ones(4, 2, 3)}, r"mask: got shape \(4, 2, 3\), expected \(4, 3\)"),
        ({"mask": torch.ones(4, 3)}, "mask: got dtype torch.float32"),
    ],
)
def test_refused_arguments(arguments: dict, message: str) -> None:
    layer = SyncBatchNorm(5)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(4, 5, 3), **arguments)
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    "option", [{"weighting": "mean"}, {"eps_mode": "plus"}, {"activation": "gelu"}, {"eps": -1.0}]
)
def test_refused_options(option: dict) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=next(iter(option))):
        SyncBatchNorm(5, **option)


def test_refused_process_group() -> None:
    with pytest.raises(TypeError, match="process_group: got str, expected"):
        SyncBatchNorm(5, process_group="world")(torch.zeros(2, 5))
