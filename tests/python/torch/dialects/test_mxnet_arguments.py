"""What mxnet's layer is made with: initializers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from syncnorm.torch.mxnet import SyncBatchNorm

TENSORS = {
    "beta_initializer": "beta",
    "gamma_initializer": "gamma",
    "running_mean_initializer": "running_mean",
    "running_variance_initializer": "running_var",
}


def twos(tensor: Tensor) -> Tensor:
    return nn.init.constant_(tensor, 2)


@pytest.mark.parametrize("in_channels", [0, 4])
@pytest.mark.parametrize("argument", TENSORS)
@pytest.mark.parametrize(
    ("initializer", "low", "high"),
    [
        ("zeros", 0, 0),
        ("ones", 1, 1),
        ("uniform", -0.07, 0.07),
        ("normal", -0.1, 0.1),
        (0.25, 0.25, 0.25),
        (3, 3, 3),
        (twos, 2, 2),
        (nn.init.ones_, 1, 1),
    ],
)
def test_initializers(
    initializer: Any, low: float, high: float, argument: str, in_channels: int
) -> None:
    layer = SyncBatchNorm(in_channels, **{argument: initializer})
    layer.eval()(torch.randn(2, 4))
    others = {"beta": 0, "gamma": 1, "running_mean": 0, "running_var": 1}
    for name, default in others.items():
        values = getattr(layer, name).detach()
        if name == TENSORS[argument]:
            assert low <= values.min().item() <= values.max().item() <= high
            assert (low == high) == (values.unique().numel() == 1)
        else:
            assert torch.equal(values, torch.full((4,), float(default)))


@pytest.mark.parametrize("argument", TENSORS)
@pytest.mark.parametrize("wrong", ["xavier", None, [1.0]])
def test_unknown_initializers_are_refused(argument: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"{argument}: got .*, expected one of zeros, ones"):
        SyncBatchNorm(**{argument: wrong})


def test_reset_parameters_starts_again() -> None:
    layer = SyncBatchNorm(4, beta_initializer=0.5)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(7)
    layer.reset_parameters()
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)


def test_without_scale_gamma_is_one_whatever_its_initializer() -> None:
    layer = SyncBatchNorm(4, scale=False, gamma_initializer=5.0)
    assert torch.equal(layer.gamma, torch.ones(4))


def test_the_representation_has_the_names_of_mxnet() -> None:
    assert repr(SyncBatchNorm(4, num_devices=2, scale=False)) == (
        "SyncBatchNorm(eps=1e-05, momentum=0.9, fix_gamma=True, use_global_stats=False, ndev=2,"
        " in_channels=4)"
    )


@pytest.mark.parametrize("shape", [(5,), ()])
def test_an_input_of_too_few_dimensions_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"at least 2D input \(got {len(shape)}D input\)"):
        SyncBatchNorm(5)(torch.zeros(shape))


def test_what_is_no_group_is_refused() -> None:
    with pytest.raises(TypeError, match="process_group: got str, expected"):
        SyncBatchNorm(5, process_group="all")(torch.zeros(2, 5))
