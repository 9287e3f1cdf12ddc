"""Some steps of training on several ranks, as the reference has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from thread_layers import assert_near, on_ranks, random_arrays, trained

import reference
from syncnorm import Communicator
from syncnorm.numpy import SyncBatchNorm

CHANNELS, STEPS = 3, 3
SHARDS = {
    "one": [(4, CHANNELS, 5)],
    "equal": [(2, CHANNELS, 3, 2)] * 2,
    "unequal": [(5, CHANNELS, 2), (1, CHANNELS, 4), (2, CHANNELS, 3), (3, CHANNELS, 1)],
    "empty rank": [(3, CHANNELS, 4), (0, CHANNELS, 4)],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "cumulative": {"momentum": None},
    "relu": {"activation": "relu", "grad_reduction": "sum"},
    "equal weights": {"weighting": "equal", "variance_factor": "unbiased_rank", "eps": 1e-3},
    "samples": {"weighting": "batch", "eps_mode": "max", "grad_reduction": "mean"},
}


def flat(x: np.ndarray) -> np.ndarray:
    """(N, C, S)"""
    return x.reshape(*x.shape[:2], int(np.prod(x.shape[2:])))


class Reference:
    """All ranks' running statistics and gradients."""

    def __init__(self, layer: SyncBatchNorm, settings: dict[str, Any], ranks: int) -> None:
        self.policy = reference.Policy(**settings)
        self.weight, self.bias = layer.weight.copy(), layer.bias.copy()
        self.running = [(layer.running_mean, layer.running_var, 5)] * ranks

    def step(self, shards: list[reference.Shard], dy: list[np.ndarray]) -> tuple[Any, Any]:
        forward = reference.forward(self.policy, shards, self.weight, self.bias)
        self.running = [
            reference.update_running(self.policy, forward, rank, *running)
            for rank, running in enumerate(self.running)
        ]
        backward = reference.backward(self.policy, forward, shards, dy, self.weight)
        return forward, backward


@pytest.mark.parametrize("extra", ["plain", "mask and residual"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("shapes", SHARDS.values(), ids=SHARDS)
def test_steps_of_training(shapes: list[tuple[int, ...]], settings: Any, extra: str) -> None:
    ranks, with_extra = len(shapes), extra != "plain"
    seeds = range(STEPS)
    x, dy, residual = ([random_arrays(shapes, 10 * s + k) for s in seeds] for k in range(3))
    masks = [[(a[:, 0] > 0.5).astype(np.uint8) for a in step] for step in residual]

    def train(rank: int, comm: Communicator) -> tuple[SyncBatchNorm, list[Any]]:
        layer = trained(SyncBatchNorm(CHANNELS, comm=comm, dtype="float64", **settings))
        results = []
        for s in seeds:
            more = (residual[s][rank], masks[s][rank]) if with_extra else ()
            layer.zero_grad()
            y = layer(x[s][rank], *more)
            gradients = layer.backward(dy[s][rank])
            dx, dresidual = gradients if with_extra else (gradients, None)
            results.append((y, dx, dresidual, layer.weight_grad, layer.bias_grad))
        return layer, results

    trainings = on_ranks(ranks, train)
    expected = Reference(trained(SyncBatchNorm(CHANNELS, dtype="float64")), settings, ranks)
    for s in seeds:
        shards = [
            reference.Shard(flat(x[s][d]), masks[s][d], flat(residual[s][d]))
            if with_extra
            else reference.Shard(flat(x[s][d]))
            for d in range(ranks)
        ]
        forward, backward = expected.step(shards, [flat(g) for g in dy[s]])
        for d in range(ranks):
            y, dx, dresidual, dweight, dbias = trainings[d][1][s]
            assert_near(flat(y), forward.y[d])
            assert_near(flat(dx), backward.dx[d])
            if with_extra:
                assert_near(flat(dresidual), backward.dresidual[d])
            assert_near(dweight, backward.dweight[d])
            assert_near(dbias, backward.dbias[d])
    for d, (mean, var, batches) in enumerate(expected.running):
        layer = trainings[d][0]
        assert_near(layer.running_mean, mean)
        assert_near(layer.running_var, var)
        assert layer.num_batches_tracked == batches
        assert layer.outstanding == 0


def test_evaluation_uses_running_statistics_and_no_group() -> None:
    (x,) = random_arrays([(4, CHANNELS, 5)], 1)

    def evaluate(rank: int, comm: Communicator) -> Any:
        layer = trained(SyncBatchNorm(CHANNELS, comm=comm, dtype="float64")).eval()
        return (layer(x), layer) if rank == 0 else (None, layer)  # rank 1 does not take part

    y, layer = on_ranks(2, evaluate)[0]
    policy, shard = reference.Policy(), reference.Shard(x)
    arrays = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    assert_near(y, reference.infer(policy, shard, *arrays).y[0])
    assert layer.num_batches_tracked == 5
    assert layer.outstanding == 0


def test_backward_of_an_evaluation() -> None:
    x, dy = random_arrays([(4, CHANNELS, 5)] * 2, 2)
    layer = trained(SyncBatchNorm(CHANNELS, dtype="float64")).eval()
    y, saved = layer.forward(x)
    np.testing.assert_array_equal(y, layer(x))
    arrays = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    policy = reference.Policy()
    forward = reference.infer(policy, reference.Shard(x), *arrays)
    expected = reference.infer_backward(policy, forward, dy, layer.weight)
    assert_near(layer.backward(dy, saved), expected.dx[0])
    assert_near(layer.weight_grad, expected.dweight[0])
    assert_near(layer.bias_grad, expected.dbias[0])


def test_without_running_statistics_an_evaluation_uses_its_own_batch() -> None:
    shapes = [(4, CHANNELS, 5), (2, CHANNELS, 5)]
    x = random_arrays(shapes, 3)
    arguments = {"dtype": "float64", "track_running_stats": False, "affine": False}

    def both(rank: int, comm: Communicator) -> tuple[np.ndarray, np.ndarray]:
        layer = SyncBatchNorm(CHANNELS, comm=comm, **arguments)
        trained_y = layer(x[rank])
        layer.clear()
        evaluated_y = layer.eval()(x[rank])
        assert layer.outstanding == 0
        return trained_y, evaluated_y

    policy, shards = reference.Policy(), [reference.Shard(each) for each in x]
    together = reference.forward(policy, shards).y
    for rank, (in_training, in_evaluation) in enumerate(on_ranks(2, both)):
        assert_near(in_training, together[rank])
        assert_near(in_evaluation, reference.forward(policy, [shards[rank]]).y[0])
