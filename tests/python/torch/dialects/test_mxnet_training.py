"""mxnet's layer in training, against the formulas of mxnet."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from mxnet_formulas import Operator
from ported_steps import (
    CHANNELS,
    GAMMA_AND_BETA,
    SIZES,
    Dialect,
    check_training,
    check_unequal_vector,
)
from torch import Tensor
from torch.func import functional_call

from syncbn.torch.mxnet import SyncBatchNorm


def dialect(
    channels: int = CHANNELS, formulas: dict[str, Any] | None = None, **options: Any
) -> Dialect:
    def layer(group: Any, dtype: torch.dtype) -> SyncBatchNorm:
        return SyncBatchNorm(channels, process_group=group, dtype=dtype, **options)

    return Dialect(GAMMA_AND_BETA, layer, partial(Operator, **(formulas or {})))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", SIZES)
def test_steps_are_those_of_the_formulas(kind: str, count: int) -> None:
    check_training(dialect(num_devices=count), SIZES[kind][:count])


@pytest.mark.parametrize("tail", [(), (7,), (2, 3, 2)])
def test_of_every_number_of_dimensions(tail: tuple[int, ...]) -> None:
    check_training(dialect(), SIZES["unequal"][:3], tail=tail)


def test_in_float32() -> None:
    check_training(dialect(), SIZES["unequal"], "float32")


@pytest.mark.parametrize(
    ("options", "formulas"),
    [
        ({"momentum": 0.3, "epsilon": 0.5}, {"momentum": 0.3, "eps": 0.5}),
        ({"scale": False}, {"fix_gamma": True}),
        ({"center": False}, {}),
        ({"scale": False, "center": False}, {"fix_gamma": True}),
        ({"use_global_stats": True}, {"use_global_stats": True}),
        (
            {"use_global_stats": True, "scale": False},
            {"use_global_stats": True, "fix_gamma": True},
        ),
    ],
)
def test_options_are_those_of_the_formulas(options: dict, formulas: dict) -> None:
    check_training(dialect(formulas=formulas, **options), SIZES["one empty"][:3])


def test_the_vector_of_unequal_shards() -> None:
    check_unequal_vector(dialect(channels=1), "equal", "1.975")


def test_without_scale_and_center_nothing_gets_a_gradient() -> None:
    layer = SyncBatchNorm(3, scale=False, center=False, beta_initializer=2.0, dtype=torch.float64)
    assert not layer.gamma.requires_grad
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (layer.gamma.grad, layer.beta.grad) == (None, None)
    torch.testing.assert_close(y.mean(0), torch.full((3,), 2.0, dtype=torch.float64))


def test_gamma_stays_one_whatever_a_state_dict_has() -> None:
    state = SyncBatchNorm(3, gamma_initializer=5.0, beta_initializer=2.0).state_dict()
    layer, plain = SyncBatchNorm(3, scale=False), SyncBatchNorm(3, beta_initializer=2.0)
    layer.load_state_dict(state, strict=True)
    x = torch.randn(4, 3)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.gamma, torch.ones(3))
    assert torch.equal(layer.beta, torch.full((3,), 2.0))


def test_global_statistics_have_the_gradients_of_their_formula() -> None:
    layer = SyncBatchNorm(3, use_global_stats=True, dtype=torch.float64)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return functional_call(layer, {"gamma": gamma, "beta": beta}, (x,))

    leaves = [torch.randn(shape, dtype=torch.float64) for shape in [(4, 3, 2), (3,), (3,)]]
    assert torch.autograd.gradcheck(function, [leaf.requires_grad_() for leaf in leaves])
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)
