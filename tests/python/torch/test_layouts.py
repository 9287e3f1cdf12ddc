"""Inputs, gradients and residuals in any memory format."""

from __future__ import annotations

import pytest
import torch
from layouts import LAYOUTS, SHAPES, laid_out
from shard_reference import normalize_shards

from syncnorm.torch import SyncBatchNorm


@pytest.mark.parametrize("step", [slice(None, None, 2), slice(1, None)])
def test_strided_input_is_made_dense_in_its_own_memory_format(step: slice) -> None:
    base = torch.randn(3, 5, 8, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    x = base.requires_grad_()[:, :, step]
    assert not x.is_contiguous(memory_format=torch.channels_last)
    y = SyncBatchNorm(5, affine=False)(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y.backward(torch.randn_like(y))
    expected = normalize_shards([x]).ys[0]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("dy_layout", ["channels_first", "channels_last", "expanded", "strided"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_layout_of_the_gradient(x_layout: str, dy_layout: str, shape: tuple) -> None:
    x = laid_out(torch.randn(shape, dtype=torch.float64), x_layout).requires_grad_()
    if dy_layout == "expanded":
        dy = torch.randn(5, dtype=torch.float64).reshape(5, *[1] * (len(shape) - 2)).expand(shape)
    elif dy_layout == "strided":
        dy = torch.randn(*shape, 2, dtype=torch.float64)[..., 1]
    else:
        dy = laid_out(torch.randn(shape, dtype=torch.float64), dy_layout)
    SyncBatchNorm(5, affine=False)(x).backward(dy)
    leaf = x.detach().clone().requires_grad_()
    normalize_shards([leaf]).ys[0].backward(dy)
    torch.testing.assert_close(x.grad, leaf.grad, rtol=1e-12, atol=1e-12)
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("x_layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_residual_in_another_layout(x_layout: str, residual_layout: str, activation: str) -> None:
    shape = (3, 5, 4, 2)
    tensors = [
        laid_out(torch.randn(shape, dtype=torch.float64), layout).requires_grad_()
        for layout in (x_layout, residual_layout)
    ]
    layer = SyncBatchNorm(5, affine=False, activation=activation)
    y = layer(*tensors)
    y.backward(torch.arange(y.numel(), dtype=torch.float64).view(shape))
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    expected = normalize_shards([leaves[0]], residuals=[leaves[1]], activation=activation).ys[0]
    expected.backward(torch.arange(y.numel(), dtype=torch.float64).view(shape))
    torch.testing.assert_close(y, expected)
    for tensor, leaf in zip(tensors, leaves, strict=True):
        torch.testing.assert_close(tensor.grad, leaf.grad, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(layer(*tensors), y, rtol=0, atol=0)
