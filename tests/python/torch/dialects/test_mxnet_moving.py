"""The running statistics of mxnet's layer move in the backward pass, once for each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from thread_ranks import run_ranks
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from syncnorm.torch.mxnet import SyncBatchNorm

BOTH = pytest.mark.parametrize("use_reentrant", [True, False])


def batch(offset: float = 0.0) -> Tensor:
    return (torch.randn(6, 3, dtype=torch.float64) + offset).requires_grad_()


def new_layer(**options: Any) -> SyncBatchNorm:
    return SyncBatchNorm(3, dtype=torch.float64, **options)


def assert_moved(layer: SyncBatchNorm, *xs: Tensor) -> None:
    """By these batches, one after another."""
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    for x in xs:
        mean = 0.9 * mean + 0.1 * x.detach().mean(0)
        var = 0.9 * var + 0.1 * x.detach().var(0, unbiased=False)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-14, atol=1e-14)


def test_a_forward_pass_moves_nothing() -> None:
    layer, x = new_layer(), batch(1)
    y = layer(x)
    assert_moved(layer)
    y.sum().backward()
    assert_moved(layer, x)


def test_without_a_backward_pass_nothing_moves() -> None:
    layer = new_layer()
    with torch.no_grad():
        layer(batch(1))
    layer.eval()(batch(1)).sum().backward()
    assert_moved(layer)


@pytest.mark.parametrize("of", ["x", "gamma", "beta"])
def test_whatever_gradient_is_asked_for(of: str) -> None:
    layer, x = new_layer(), batch(1)
    torch.autograd.grad(layer(x).pow(2).sum(), x if of == "x" else getattr(layer, of))
    assert_moved(layer, x)


def test_twice_with_a_graph_that_is_kept() -> None:
    layer, x = new_layer(), batch(1)
    loss = layer(x).pow(2).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert_moved(layer, x, x)


def test_by_the_batch_whose_backward_pass_it_is() -> None:
    layer, first, second = new_layer(), batch(1), batch(-2)
    losses = [layer(x).pow(2).sum() for x in (first, second)]
    losses[0].backward()
    assert_moved(layer, first)
    losses[1].backward()
    assert_moved(layer, first, second)


@pytest.mark.parametrize(("loss", "times"), [(lambda y: y, 1), (lambda y: y.pow(3), 2)])
def test_second_derivatives_move_them_where_they_pass_the_output(loss: Any, times: int) -> None:
    """As every other backward pass through the layer does."""
    layer, x = new_layer(), batch(1)
    total = (loss(layer(x)) * x.detach()).sum()
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    assert_moved(layer, x)
    gradient.pow(2).sum().backward()
    assert_moved(layer, *[x] * times)


@BOTH
def test_once_where_the_forward_pass_is_recomputed(use_reentrant: bool) -> None:
    layer, x = new_layer(), batch(1)
    plain = copy.deepcopy(layer)
    for each, wrap in ((layer, True), (plain, False)):
        leaf = x.detach().clone().requires_grad_()
        y = checkpoint(each, leaf, use_reentrant=use_reentrant) if wrap else each(leaf)
        assert_moved(each)
        y.pow(3).sum().backward()
        assert_moved(each, x)
    torch.testing.assert_close(layer.gamma.grad, plain.gamma.grad, rtol=0, atol=0)


@BOTH
def test_once_for_a_list_that_is_recomputed(use_reentrant: bool) -> None:
    layer, xs = new_layer(), [batch(1), batch(-1)]

    def on_devices(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(layer(tensors))

    ys = checkpoint(on_devices, *xs, use_reentrant=use_reentrant)
    assert_moved(layer)
    sum(y.pow(3).sum() for y in ys).backward()
    assert_moved(layer, torch.cat(xs))


@BOTH
def test_once_on_each_of_several_ranks(use_reentrant: bool) -> None:
    xs = [batch(1), batch(-1)]

    def body(rank: int, communicator: Any) -> SyncBatchNorm:
        layer = new_layer(process_group=communicator)
        leaf = xs[rank].detach().requires_grad_()
        checkpoint(layer, leaf, use_reentrant=use_reentrant).pow(3).sum().backward()
        return layer

    for layer in run_ranks(2, body):
        assert_moved(layer, torch.cat(xs))


def test_a_rank_without_gradients_of_its_own_moves_with_the_others() -> None:
    xs = [batch(1), batch(-1)]

    def body(rank: int, communicator: Any) -> SyncBatchNorm:
        layer = new_layer(process_group=communicator).requires_grad_(rank == 0)
        y = layer(xs[rank].detach())
        y.sum().backward()
        return layer

    first, second = run_ranks(2, body)
    assert_moved(first, torch.cat(xs))
    assert_moved(second, torch.cat(xs))
    assert second.gamma.grad is None


def test_buffers_of_any_dtype_move_as_in_float64() -> None:
    layer, x = SyncBatchNorm(3, dtype=torch.float32), batch(1)
    layer.running_var = layer.running_var.bfloat16()
    layer(x).sum().backward()
    torch.testing.assert_close(layer.running_mean, 0.1 * x.detach().mean(0).float())
    assert layer.running_var.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_statistics_of_the_batch_may_be_returned(dtype: torch.dtype) -> None:
    layer, x = new_layer(output_mean_var=True), batch(1)
    given = x if dtype is torch.float64 else x.to(dtype)
    layer = layer if dtype is torch.float64 else layer.float()
    y, mean, var = layer(given)
    plain = SyncBatchNorm(3, dtype=mean.dtype)
    torch.testing.assert_close(y, plain(given), rtol=0, atol=0)
    values = given.detach().to(mean.dtype)
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(var, values.var(0, correction=0))
    assert not mean.requires_grad
    assert not var.requires_grad
    (y.float() ** 2).sum().backward()
    torch.testing.assert_close(layer.running_mean, 0.1 * mean)


def test_the_statistics_that_are_used_may_be_returned() -> None:
    for layer in (new_layer(output_mean_var=True, use_global_stats=True), new_layer().eval()):
        layer.output_mean_var = True
        y, mean, var = layer(batch(1))
        assert (y.shape, mean.tolist(), var.tolist()) == ((6, 3), [0.0] * 3, [1.0] * 3)
    layer = new_layer(output_mean_var=True)
    xs = [batch(1), batch(-1)]
    ys, mean, _ = layer(xs)
    assert len(ys) == 2
    torch.testing.assert_close(mean, torch.cat(xs).detach().mean(0))
