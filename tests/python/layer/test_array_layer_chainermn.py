"""The options with which a layer computes what ChainerMN's link does: docs/chainermn.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from thread_layers import BOUND, assert_near, on_ranks, random_arrays

import reference
from support.chainermn import MultiNodeBatchNormalization
from syncnorm import Communicator
from syncnorm.numpy import SyncBatchNorm

CHAINERMN: dict[str, Any] = {
    "eps": 2e-5,
    "momentum": 1 - 0.9,
    "weighting": "equal",
    "grad_reduction": "mean",
    "variance_factor": "unbiased_rank",
    "running_var_init": 0.0,
}
STEPS, FINETUNE = 3, 2
SIZES: dict[Any, list[tuple[int, ...]]] = {3: [(4, 3, 5), (4, 3, 5)], (3, 2): [(6, 3, 2)] * 4}
UNEQUAL: dict[Any, list[tuple[int, ...]]] = {
    3: [(5, 3, 2), (1, 3, 4), (2, 3, 3), (3, 3, 1)],
    (3, 2): [(6, 3, 2, 2), (2, 3, 2, 1)],
}
CASES = [(size, shapes) for shards in (SIZES, UNEQUAL) for size, shapes in shards.items()]


def set_parameters(weight: np.ndarray, bias: np.ndarray) -> None:
    generator = np.random.default_rng(3)
    weight[...] = generator.uniform(0.5, 2, weight.shape)
    bias[...] = generator.uniform(-1, 1, bias.shape)


@pytest.mark.parametrize(("dtype", "bound"), [("float64", BOUND), ("float32", 2e-6)])
@pytest.mark.parametrize(("size", "shapes"), CASES, ids=str)
def test_training_finetuning_and_evaluation(
    size: Any, shapes: list[tuple[int, ...]], dtype: str, bound: float
) -> None:
    ranks, steps = len(shapes), STEPS + FINETUNE
    x = [random_arrays(shapes, 2 * s, dtype) for s in range(steps)]
    dy = [random_arrays(shapes, 2 * s + 1, dtype) for s in range(steps)]

    def train(rank: int, comm: Communicator) -> tuple[list[Any], SyncBatchNorm]:
        layer = SyncBatchNorm(size, comm=comm, dtype=dtype, **CHAINERMN)
        set_parameters(layer.weight, layer.bias)
        results = []
        for s in range(steps):
            if s == STEPS:
                layer.momentum = None
                layer.reset_running_stats()
            layer.zero_grad()
            y, dx = layer(x[s][rank]), layer.backward(dy[s][rank])
            running = (layer.running_mean.copy(), layer.running_var.copy())
            results.append((y, dx, layer.weight_grad, layer.bias_grad, *running))
        return results, layer

    link = MultiNodeBatchNormalization(size, ranks)
    set_parameters(link.gamma, link.beta)
    if dtype == "float32":  # the numbers that the layer holds
        link.gamma, link.beta = (a.astype(dtype).astype(float) for a in (link.gamma, link.beta))
    trainings = on_ranks(ranks, train)
    for s in range(steps):
        y = link.forward([e.astype(float) for e in x[s]], finetune=s >= STEPS)
        gx, ggamma, gbeta = link.backward([e.astype(float) for e in dy[s]])
        for d in range(ranks):
            running = (link.avg_mean[d], link.avg_var[d])
            expected = (y[d], gx[d], ggamma, gbeta, *running)
            for actual, value in zip(trainings[d][0][s], expected, strict=True):
                assert_near(actual, value, bound)
    for d in range(ranks):
        layer = trainings[d][1]
        assert layer.num_batches_tracked == link.count == FINETUNE
        assert_near(layer.eval()(x[0][d]), link.evaluate(x[0][d].astype(float), d), bound)


def test_local_gradients_and_their_average_are_the_same_gradients() -> None:
    """With weights of its own in a network one averages all gradients: no need for an option."""
    shapes = [(4, 3, 5), (2, 3, 5)]
    x, dy = random_arrays(shapes, 1), random_arrays(shapes, 2)
    local = {**CHAINERMN, "grad_reduction": "local"}

    def gradient(rank: int, comm: Communicator) -> tuple[Any, Any]:
        layer = SyncBatchNorm(3, comm=comm, dtype="float64", **local)
        layer(x[rank])
        return layer.backward(dy[rank]), layer.weight_grad

    link = MultiNodeBatchNormalization(3, 2)
    link.forward(x)
    gx, ggamma, _ = link.backward(dy)
    results = on_ranks(2, gradient)
    for rank, (dx, _) in enumerate(results):
        assert_near(dx, gx[rank])
    assert_near((results[0][1] + results[1][1]) / 2, ggamma)


def test_chainermn_loses_the_variance_where_the_mean_is_large() -> None:
    """A defect that is not reproduced: E[x^2] - E[x]^2 in the dtype of gamma."""
    shapes = [(64, 1)] * 2
    x = [(1000 + 0.01 * e).astype(np.float32) for e in random_arrays(shapes, 1)]
    link = MultiNodeBatchNormalization(1, 2, dtype="float32")
    with np.errstate(invalid="ignore"):
        theirs = link.forward(x)
    forward = reference.forward(
        reference.Policy(eps=2e-5), [reference.Shard(e[..., None]) for e in x]
    )

    def ours(rank: int, comm: Communicator) -> Any:
        return SyncBatchNorm(1, comm=comm, **CHAINERMN)(x[rank])

    for rank, y in enumerate(on_ranks(2, ours)):
        expected = forward.y[rank][..., 0]
        assert np.abs(y - expected).max() < 0.01
        assert not np.abs(theirs[rank] - expected).max() < 0.5  # or NaN


def test_a_rank_without_samples_leaves_the_others_alone() -> None:
    """Where ChainerMN divides by zero, and every rank gets NaN."""
    shapes = [(4, 3, 5), (0, 3, 5)]
    x, dy = random_arrays(shapes, 1), random_arrays(shapes, 2)

    def train(rank: int, comm: Communicator) -> tuple[Any, Any]:
        layer = SyncBatchNorm(3, comm=comm, dtype="float64", **CHAINERMN)
        return layer(x[rank]), layer.backward(dy[rank])

    link = MultiNodeBatchNormalization(3, 1)
    (y,) = link.forward(x[:1])
    ((gx,), _, _) = link.backward(dy[:1])
    (first, first_dx), (empty, empty_dx) = on_ranks(2, train)
    assert_near(first, y)
    assert_near(first_dx, gx)
    assert empty.shape == empty_dx.shape == shapes[1]
