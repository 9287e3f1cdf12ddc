"""Strided running statistics, lazily negated tensors, and counters of other dtypes, as in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from thread_ranks import run_ranks
from torch import Tensor, nn

from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm, sync_batch_norm

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPILED = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


def in_one_buffer(layer: Any) -> Tensor:
    """Make the running statistics the columns of one tensor, which is returned."""
    both = torch.stack([layer.running_mean, layer.running_var], dim=1)
    layer.running_mean, layer.running_var = both[:, 0], both[:, 1]
    return both


def steps(layer: Any, compiled: bool = False) -> list[Tensor]:
    """Two steps of training and an evaluation."""
    call = torch.compile(layer, backend="aot_eager") if compiled else layer
    generator = torch.Generator().manual_seed(1)
    xs = [torch.randn(6, 3, generator=generator) + 2 for _ in range(3)]
    ys = [call(xs[0]), call(xs[1])]
    layer.eval()
    return [*ys, layer(xs[2])]


@COMPILED
@pytest.mark.parametrize("momentum", [0.1, None])
def test_strided_running_statistics_are_updated(momentum: float | None, compiled: bool) -> None:
    theirs = nn.BatchNorm1d(3, momentum=momentum)
    ours = convert_sync_batchnorm(copy.deepcopy(theirs))
    expected, found = in_one_buffer(theirs), in_one_buffer(ours)
    version = found._version
    torch.testing.assert_close(steps(ours, compiled), steps(theirs))
    torch.testing.assert_close(found, expected)
    assert found._version > version
    assert ours.running_mean.stride() == (2,)


def test_strided_running_statistics_of_ranks_and_of_lists() -> None:
    xs = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 2)]

    def body(rank: int, communicator: Any) -> Tensor:
        layer = SyncBatchNorm(3, process_group=communicator, dtype=torch.float64)
        both = in_one_buffer(layer)
        layer(xs[rank])
        return both

    layer = SyncBatchNorm(3, dtype=torch.float64)
    of_list = in_one_buffer(layer)
    layer(xs)
    x = torch.cat(xs)
    expected = torch.stack([0.1 * x.mean(0), 0.9 + 0.1 * x.var(0)], dim=1)
    for both in (of_list, *run_ranks(2, body)):
        torch.testing.assert_close(both, expected)


def test_running_statistics_that_share_memory_are_refused() -> None:
    layer = SyncBatchNorm(3)
    layer.running_var = torch.ones(1).expand(3)
    with pytest.raises(ValueError, match=r"running_var: got strides \(0,\).*running_var.clone"):
        layer(torch.randn(4, 3))
    assert not layer.running_mean.any()
    layer.eval()(torch.randn(4, 3))


ARGUMENTS = ("input", "residual", "weight", "bias", "gradient")


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dimensions", [2, 4])
def test_lazily_negated_tensors_are_negated(name: str, training: bool, dimensions: int) -> None:
    def results(negate: Callable[[Tensor], Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3)
        shape = (4, 3, 2, 2)[:dimensions]
        tensors = {
            each: torch.rand(
                shape if each in ("input", "residual", "gradient") else 3, generator=generator
            )
            for each in ARGUMENTS
        }
        leaves = {each: tensors[each] for each in ("input", "residual", "weight", "bias")}
        for leaf in leaves.values():
            leaf.requires_grad_()
        tensors[name] = negate(tensors[name])
        gradient = tensors.pop("gradient")
        running = torch.zeros(3), torch.ones(3)
        tensors |= dict(zip(("running_mean", "running_var"), running, strict=True))
        y = sync_batch_norm(**tensors, training=training, activation="leaky_relu")
        gradients = torch.autograd.grad(y, list(leaves.values()), gradient)
        return [y.detach(), *gradients, *running]

    lazily = results(torch._neg_view)
    for found, expected in zip(lazily, results(torch.neg), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_imaginary_part_of_a_conjugate() -> None:
    z = torch.randn(4, 3, dtype=torch.complex64)
    x = z.conj().imag
    assert x.is_neg()
    torch.testing.assert_close(SyncBatchNorm(3)(x), nn.BatchNorm1d(3)(-z.imag))


@COMPILED
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS])
def test_a_counter_of_any_dtype(dtype: torch.dtype, momentum: float | None, compiled: bool) -> None:
    theirs = nn.BatchNorm1d(3, momentum=momentum)
    state = {**theirs.state_dict(), "num_batches_tracked": torch.tensor(1, dtype=dtype)}
    theirs.load_state_dict(state, assign=True)
    ours = convert_sync_batchnorm(copy.deepcopy(theirs))
    torch.testing.assert_close(steps(ours, compiled), steps(theirs))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert ours.num_batches_tracked.dtype is dtype
    assert ours.num_batches_tracked == 3


@pytest.mark.parametrize(
    "count",
    [
        torch.tensor(2.5),  # the average of two counters
        torch.tensor([4]),
        torch.tensor(255, dtype=torch.uint8),
        torch.tensor(2048.0, dtype=torch.float16),  # + 1 is rounded
    ],
)
def test_a_counter_of_any_value(count: Tensor) -> None:
    theirs = nn.BatchNorm1d(3)
    theirs.num_batches_tracked = count.clone()
    ours = convert_sync_batchnorm(copy.deepcopy(theirs))
    torch.testing.assert_close(steps(ours), steps(theirs))
    torch.testing.assert_close(ours.num_batches_tracked, theirs.num_batches_tracked)
