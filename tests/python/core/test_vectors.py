"""Published numbers through the core, to their printed digits."""

from __future__ import annotations

import numpy as np
import pytest

from support.cases import Case, ShardData, Vector
from support.driver import Rank, run_one_call, run_phases
from support.vectors import PADDLE, UNEQUAL, VECTORS, Expected, printed_like

RUNS = {"phases": run_phases, "one call": run_one_call}


def fresh(channels: int, dtype: str) -> tuple[Vector, Vector, Vector, Vector]:
    """gamma 1, beta 0, running statistics (0, 1)."""
    ones, zeros = Vector(np.ones(channels), dtype), Vector(np.zeros(channels), dtype)
    return ones, zeros, zeros, ones


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_paddle_example(run, layout: str) -> None:
    shard = ShardData(x=PADDLE.x, dy=np.zeros_like(PADDLE.x))
    options = {"momentum": 0.1, "variance_factor": "biased"}
    case = Case("float64", 2, [shard], layout, *fresh(2, "float64"), 0, options)
    (rank,) = run(case)
    printed = np.array(PADDLE.y.split(), float)
    # y was printed from float32 arithmetic: its last digits are rounding, a few units of 2^-23.
    np.testing.assert_allclose(rank.out["y"].values.ravel(), printed, rtol=4 * 2**-23)
    assert printed_like(PADDLE.running_mean, rank.out["running_mean"].values) == PADDLE.running_mean
    assert printed_like(PADDLE.running_var, rank.out["running_var"].values) == PADDLE.running_var


def unequal(weighting: str, layout: str = "first", **options) -> Case:
    shards = [ShardData(x=x, dy=dy) for x, dy in zip(UNEQUAL.x, UNEQUAL.dy, strict=True)]
    given = {"weighting": weighting, **options}
    return Case("float64", 1, shards, layout, *fresh(1, "float64"), 0, given)


def joined(ranks: list[Rank], name: str) -> np.ndarray:
    return np.concatenate([rank.out[name].values.ravel() for rank in ranks])


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("centering", ["on", "off"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.weighting)
def test_unequal_shards(vector: Expected, run, centering: str, layout: str) -> None:
    ranks = run(unequal(vector.weighting, layout, centering=centering))
    for name in ("y", "dx", "dweight"):
        expected = getattr(vector, name)
        assert printed_like(expected, joined(ranks, name)) == expected
    assert joined(ranks, "dbias").tolist() == [2.5, -3]
    # With momentum 1 the running statistics are the batch's.
    ranks = run(unequal(vector.weighting, layout, momentum=1.0, variance_factor="biased"))
    for rank in ranks:
        assert printed_like(vector.mean, rank.out["running_mean"].values) == vector.mean
        assert printed_like(vector.var, rank.out["running_var"].values) == vector.var


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.weighting)
def test_running_variance_of_unequal_shards(vector: Expected) -> None:
    for (factor, rank), expected in vector.running_var.items():
        ranks = run_phases(unequal(vector.weighting, variance_factor=factor))
        assert printed_like(expected, ranks[rank].out["running_var"].values) == expected


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.weighting)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reduced_gradients_of_unequal_shards(vector: Expected, reduction: str) -> None:
    ranks = run_phases(unequal(vector.weighting, grad_reduction=reduction))
    share = {"sum": 1, "mean": 0.5}[reduction]
    dweight = sum(float(text) for text in vector.dweight.split()) * share
    # Two numbers of 8 printed decimals were added.
    np.testing.assert_allclose(joined(ranks, "dweight"), dweight, rtol=0, atol=1.01e-8)
    assert joined(ranks, "dbias").tolist() == [-0.5 * share] * 2
