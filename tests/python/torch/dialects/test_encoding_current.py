"""PyTorch-Encoding's layers from v1.0 on: every rank counts equally, biased running variance."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from dialect_steps import batches, parameters, set_parameters
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm.torch
from support.signatures import positional
from syncnorm.torch import encoding
from syncnorm.torch.encoding import BatchNorm3d, DistSyncBatchNorm, SyncBatchNorm

EMPTY = inspect.Parameter.empty
KINDS = pytest.mark.parametrize("kind", [SyncBatchNorm, DistSyncBatchNorm, BatchNorm3d])
UNEQUAL = [(5, 4, 2), (1, 4, 6), (2, 4, 3)]
SAME = {"rtol": 1e-10, "atol": 1e-12}


def formula(xs: list[Tensor], weight: Tensor, bias: Tensor, slope: float) -> tuple[Any, ...]:
    """The outputs, and the mean and variance: means over the devices of E[x] and E[x^2]."""
    axes = [0, *range(2, xs[0].dim())]
    row = (-1, *[1] * (xs[0].dim() - 2))
    ex = torch.stack([x.mean(axes) for x in xs]).mean(0)
    exs = torch.stack([(x * x).mean(axes) for x in xs]).mean(0)
    var = exs - ex**2
    scale = (weight / (var + 1e-5).sqrt()).reshape(row)
    ys = [(x - ex.reshape(row)) * scale + bias.reshape(row) for x in xs]
    return [nn.functional.leaky_relu(y, slope) for y in ys], ex.detach(), var.detach()


@KINDS
@pytest.mark.parametrize("shapes", [[(3, 4, 2, 3, 2)] * 2, UNEQUAL], ids=["equal", "unequal"])
def test_a_step_is_that_of_the_formulas(kind: Any, shapes: list) -> None:
    acts = kind is not DistSyncBatchNorm
    options = {"activation": "leaky_relu", "slope": 0.2} if acts else {}
    (data, *_), vectors = batches(shapes), parameters()
    leaves = [torch.tensor(each, requires_grad=True) for each in (*data.xs, *vectors)]
    ys, mean, var = formula(leaves[:-2], *leaves[-2:], 0.2 if acts else 1.0)
    torch.autograd.backward(ys, [torch.tensor(dy) for dy in data.dys])

    def body(rank: int, communicator: Any) -> list[Tensor]:
        layer = kind(4, process_group=communicator, dtype=torch.float64, **options)
        assert layer.in_place is acts
        set_parameters(layer, *vectors)
        x = torch.tensor(data.xs[rank], requires_grad=True)
        y = layer(x * 1)
        y.backward(torch.tensor(data.dys[rank]))
        statistics = [layer.running_mean, layer.running_var]
        return [y.detach(), x.grad, *statistics, layer.weight.grad, layer.bias.grad]

    outputs = run_ranks(len(shapes), body)
    for rank, (y, dx, running_mean, running_var, *_) in enumerate(outputs):
        torch.testing.assert_close(y, ys[rank].detach(), **SAME)
        torch.testing.assert_close(dx, leaves[rank].grad, **SAME)
        torch.testing.assert_close(running_mean, 0.1 * mean, **SAME)
        torch.testing.assert_close(running_var, 0.9 + 0.1 * var, **SAME)
    for leaf, grads in zip(leaves[-2:], list(zip(*outputs, strict=True))[4:], strict=True):
        torch.testing.assert_close(sum(grads), leaf.grad, **SAME)


def test_the_arguments_are_those_of_encoding_in_their_order() -> None:
    expected = [("num_features", EMPTY), ("eps", 1e-5), ("momentum", 0.1)]
    assert positional(DistSyncBatchNorm) == [*expected, ("process_group", None)]
    expected += [("sync", True), ("activation", "none"), ("slope", 0.01), ("inplace", True)]
    assert positional(SyncBatchNorm) == positional(BatchNorm3d) == expected
    layer = SyncBatchNorm(3, 1e-3, 0.2, False, "leaky_relu", 0.3, False)
    assert (layer.eps, layer.momentum, layer.sync) == (1e-3, 0.2, False)
    assert (layer.activation, layer.negative_slope, layer.in_place) == ("leaky_relu", 0.3, False)
    layers = {kind: SyncBatchNorm(3, activation=kind) for kind in ("none", "relu", "elu")}
    assert [layer.in_place for layer in layers.values()] == [False, False, True]
    with pytest.raises(ValueError, match="activation"):
        SyncBatchNorm(3, activation="gelu")


@KINDS
def test_a_list_is_one_batch_and_evaluation_uses_the_running_statistics(kind: Any) -> None:
    layer, (data, *_) = kind(4, dtype=torch.float64), batches(UNEQUAL)
    xs = [torch.tensor(x) for x in data.xs]
    ys, _, var = formula(xs, torch.ones(4), torch.zeros(4), 1.0)
    for y, expected in zip(layer([x.clone() for x in xs]), ys, strict=True):
        torch.testing.assert_close(y, expected, **SAME)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * var, **SAME)
    plain = nn.BatchNorm1d(4, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(xs[0]), plain.eval()(xs[0]))


def test_an_evaluation_applies_the_activation() -> None:
    layer = SyncBatchNorm(2, activation="leaky_relu", slope=0.5).eval()
    y = layer(torch.tensor([[-2.0, 4.0]]))
    torch.testing.assert_close(y, torch.tensor([[-1.0, 4.0]]), rtol=1e-4, atol=0)


def test_without_sync_every_rank_uses_its_own_statistics() -> None:
    xs = [torch.randn(6, 3) + rank for rank in range(2)]

    def body(rank: int, communicator: Any) -> Tensor:
        return SyncBatchNorm(3, sync=False, process_group=communicator)(xs[rank])

    for x, y in zip(xs, run_ranks(2, body), strict=True):
        torch.testing.assert_close(y, nn.BatchNorm1d(3)(x))


def test_arrays_of_a_checkpoint_load() -> None:
    state = {name: value.numpy() for name, value in nn.BatchNorm2d(4).state_dict().items()}
    state["weight"] = np.full(4, 3.0, "float32")
    layer = SyncBatchNorm(4)
    layer.load_state_dict(state)
    assert layer.weight.tolist() == [3.0] * 4


def test_nothing_else_is_imported_by_name() -> None:
    assert encoding.SyncBatchNorm is not syncnorm.torch.SyncBatchNorm
    names: dict[str, Any] = {}
    exec("from syncnorm.torch.encoding import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == sorted(encoding.__all__)
    assert all(getattr(encoding, name).__module__ == encoding.__name__ for name in encoding.__all__)
