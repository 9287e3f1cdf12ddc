"""Calls inside of the callbacks of other calls: every call has a workspace of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import syncnorm.numpy
import syncnorm.torch
from syncnorm.comm import from_callback

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (4, 8, 5)).astype("f4")
DY = RNG.normal(0, 1, X.shape).astype("f4")


def train_numpy(comm: syncnorm.Communicator | None, scale: float) -> list[np.ndarray]:
    x, dy = X * np.float32(scale), DY * np.float32(scale)
    y, saved = syncnorm.numpy.forward(x, comm=comm)
    return [y, *(part for part in syncnorm.numpy.backward(dy, saved) if part is not None)]


@torch.enable_grad()  # off in the callback of a backward pass
def train_torch(comm: syncnorm.Communicator | None, scale: float) -> list[np.ndarray]:
    x = torch.from_numpy(X * np.float32(scale)).requires_grad_()
    layer = syncnorm.torch.SyncBatchNorm(8, process_group=comm)
    y = layer(x)
    y.backward(torch.from_numpy(DY * np.float32(scale)))
    return [value.detach().numpy() for value in (y, x.grad, layer.weight.grad, layer.running_var)]


Train = Callable[["syncnorm.Communicator | None", float], list[np.ndarray]]


@pytest.mark.parametrize("inner", [train_numpy, train_torch])
@pytest.mark.parametrize("outer", [train_numpy, train_torch])
def test_a_layer_in_the_callback_of_a_layer(outer: Train, inner: Train):
    calls: list[int] = []

    def sum_of_two_equal_ranks(src: memoryview, dst: memoryview) -> None:
        np.frombuffer(dst)[:] = np.frombuffer(src) * 2

    def nested_sum(src: memoryview, dst: memoryview) -> None:
        calls.append(len(src))
        inner(from_callback(0, 2, sum_of_two_equal_ranks), 100)
        inner(None, 0.01)
        sum_of_two_equal_ranks(src, dst)

    expected = outer(from_callback(0, 2, sum_of_two_equal_ranks), 1)
    got = outer(from_callback(0, 2, nested_sum), 1)
    assert len(calls) == 2
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
