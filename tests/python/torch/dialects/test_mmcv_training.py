"""mmcv's SyncBatchNorm on ranks that are threads, against its formulas."""

from __future__ import annotations

import math

import mmcv_formulas as formulas
import numpy as np
import pytest
import torch
from dialect_steps import (
    RATE,
    SHAPES,
    Batch,
    Expected,
    Got,
    assert_step,
    batches,
    parameters,
    set_parameters,
    train,
)
from thread_ranks import run_ranks
from torch import Tensor

from support.vectors import UNEQUAL, VECTORS, printed_like
from syncnorm.torch.mmcv import SyncBatchNorm

MODES = ["default", "N"]
WEIGHTING = {"default": "equal", "N": "batch"}


def expected_steps(data: list[Batch], stats_mode: str, momentum: float | None) -> list[Expected]:
    weight, bias = parameters()
    ranks = range(len(data[0].xs))
    running = [(np.zeros(4), np.ones(4)) for _ in ranks]
    steps = []
    for number, batch in enumerate(data, 1):
        result = formulas.forward(batch.xs, weight, bias, stats_mode=stats_mode)
        back = formulas.backward(result, batch.dys, weight)
        step = 1 / number if momentum is None else momentum
        running = [formulas.running(result, r, step, *running[r]) for r in ranks]
        shared = [back.dweight] * len(ranks), [back.dbias] * len(ranks)
        sizes = result.norms, (1 + np.abs(weight)) / result.std, result.shares
        steps.append(Expected(result.ys, back.dxs, *shared, running, *sizes))
        weight, bias = weight - RATE * back.dweight, bias - RATE * back.dbias
    return steps


def trained_ranks(
    data: list[Batch], dtype: torch.dtype = torch.float64, channels_last: bool = False, **options
) -> list[list[Got]]:
    def body(rank: int, comm) -> list[Got]:
        layer = SyncBatchNorm(4, group=comm, dtype=dtype, **options)
        set_parameters(layer, *parameters())
        mine = [(batch.xs[rank], batch.dys[rank]) for batch in data]
        steps = train(layer, mine, dtype=dtype, channels_last=channels_last)
        empty = not any(x.size for x in data[0].xs)
        assert layer.num_batches_tracked.item() == (0 if empty else len(data))
        return steps

    return run_ranks(len(data[0].xs), body)


def assert_as_documented(ranks: list[list[Got]], data: list[Batch], expected: list[Expected]):
    for rank, steps in enumerate(ranks):
        for got, exact, batch in zip(steps, expected, data, strict=True):
            assert_step(got, exact, batch, rank)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("stats_mode", MODES)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_steps_of_training(shapes: list, stats_mode: str, momentum: float | None) -> None:
    data = batches(shapes)
    ranks = trained_ranks(data, stats_mode=stats_mode, momentum=momentum)
    assert_as_documented(ranks, data, expected_steps(data, stats_mode, momentum))


@pytest.mark.parametrize("stats_mode", MODES)
def test_steps_of_training_in_float32(stats_mode: str) -> None:
    data = batches(SHAPES["unequal"])
    ranks = trained_ranks(data, torch.float32, stats_mode=stats_mode)
    assert_as_documented(ranks, data, expected_steps(data, stats_mode, 0.1))


def test_steps_of_training_in_channels_last() -> None:
    data = batches([(3, 4, 2, 3), (2, 4, 3, 2)])
    ranks = trained_ranks(data, channels_last=True)
    assert_as_documented(ranks, data, expected_steps(data, "default", 0.1))


@pytest.mark.parametrize("stats_mode", MODES)
def test_published_numbers_of_unequal_shards(stats_mode: str) -> None:
    vector = next(v for v in VECTORS if v.weighting == WEIGHTING[stats_mode])

    def body(rank: int, comm) -> list[Tensor]:
        layer = SyncBatchNorm(1, group=comm, stats_mode=stats_mode, dtype=torch.float64)
        torch.nn.init.ones_(layer.weight)
        x = torch.tensor(UNEQUAL.x[rank], requires_grad=True)
        y = layer(x)
        y.backward(torch.tensor(UNEQUAL.dy[rank]))
        return [y.detach(), x.grad, layer.weight.grad, layer.bias.grad, layer.running_var]

    first, second = run_ranks(2, body)
    for index, printed in enumerate([vector.y, vector.dx]):
        joined = torch.cat([first[index].flatten(), second[index].flatten()]).tolist()
        assert printed_like(printed, joined) == printed
    group_mean = sum(float(text) for text in vector.dweight.split()) / 2
    for rank, got in enumerate([first, second]):
        assert got[2].item() == pytest.approx(group_mean, rel=0, abs=1.01e-8)
        assert got[3].item() == -0.25
        printed = vector.running_var["unbiased_local", rank]
        assert printed_like(printed, got[4].tolist()) == printed


@pytest.mark.parametrize("stats_mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_without_tracking_an_evaluation_is_synchronized_too(
    training: bool, stats_mode: str
) -> None:
    (batch,) = batches(SHAPES["unequal"], steps=1)
    weight, bias = parameters()
    exact = formulas.forward(batch.xs, weight, bias, stats_mode=stats_mode)
    back = formulas.backward(exact, batch.dys, weight)

    def body(rank: int, comm) -> list[Tensor]:
        options = {"track_running_stats": False, "stats_mode": stats_mode, "dtype": torch.float64}
        layer = SyncBatchNorm(4, group=comm, **options).train(training)
        set_parameters(layer, weight, bias)
        assert set(layer.state_dict()) == {"weight", "bias"}
        x = torch.tensor(batch.xs[rank], requires_grad=True)
        y = layer(x)
        y.backward(torch.tensor(batch.dys[rank]))
        return [y.detach(), x.grad, layer.weight.grad]

    for rank, got in enumerate(run_ranks(3, body)):
        exact_here = [exact.ys[rank], back.dxs[rank], back.dweight]
        torch.testing.assert_close(
            got, [torch.tensor(e) for e in exact_here], rtol=1e-13, atol=1e-13
        )


@pytest.mark.parametrize("stats_mode", MODES)
def test_the_formulas_gradient_is_that_of_their_forward_pass(stats_mode: str) -> None:
    """By central differences."""
    (batch,) = batches([(2, 4, 3), (1, 4, 2), (0, 4, 2)], steps=1)
    weight, bias = parameters()

    def loss(xs: list[np.ndarray], weight: np.ndarray) -> float:
        ys = formulas.forward(xs, weight, bias, stats_mode=stats_mode).ys
        return sum((y * dy).sum() for y, dy in zip(ys, batch.dys, strict=True))

    result = formulas.forward(batch.xs, weight, bias, stats_mode=stats_mode)
    back = formulas.backward(result, batch.dys, weight)
    step = math.ulp(1.0) ** (1 / 3)
    for rank, x in enumerate(batch.xs):
        for index in np.ndindex(*x.shape):
            sides = []
            for sign in (1, -1):
                xs = [each.copy() for each in batch.xs]
                xs[rank][index] += sign * step
                sides.append(loss(xs, weight))
            slope = (sides[0] - sides[1]) / (2 * step)
            assert back.dxs[rank][index] == pytest.approx(slope, abs=1e-8)
    # A channel is linear in its weight.
    ones = np.ones(4)
    difference = loss(batch.xs, weight + ones) - loss(batch.xs, weight)
    assert 3 * back.dweight.sum() == pytest.approx(difference, abs=1e-10)
