"""Training with syncnorm.cupy.SyncBatchNorm, on one device and on all of a process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import syncnorm.comm
from support import simulated_cuda as simulated
from support.cupy_on_host import BFLOAT16, Pool, array
from support.nccl_ranks import WAIT_SECONDS, each
from syncnorm import Communicator
from syncnorm import cupy as bn
from syncnorm import numpy as cpu

pytestmark = pytest.mark.usefixtures("pool")

SHAPE = (8, 3, 5, 6)
STEPS = 4


def batches(rows: slice = slice(None)) -> np.ndarray:
    """x and dy of each step, as far as a rank has them."""
    return np.random.default_rng(5).standard_normal((STEPS, 2, *SHAPE))[:, :, rows]


def train(layer: Any, steps: Sequence[np.ndarray], new: Any, read: Any) -> tuple[list[Any], Any]:
    """Gradient descent: y and dx of each step, and the state in the end."""
    results = []
    for x, dy in steps:
        results += [read(layer(new(x))), read(layer.backward(new(dy)))]
        for name in ("weight", "bias"):
            parameter, gradient = getattr(layer, name), getattr(layer, f"{name}_grad")
            layer.functions.library.assign(parameter, read(parameter) - 0.5 * read(gradient))
        layer.zero_grad()
    return results, list(layer.state_dict().values())


def on_device(layer: bn.SyncBatchNorm, steps: Sequence[np.ndarray]) -> tuple[list[Any], Any]:
    return train(layer, steps, lambda values: array(values, "float64"), bn.to_numpy)


def on_host(channels: int, **settings: Any) -> tuple[list[Any], Any]:
    layer = cpu.SyncBatchNorm(channels, dtype="float64", **settings)
    return train(layer, batches(), np.array, np.array)


def assert_close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": None, "activation": "relu"}, {"axis": -1}], ids=str
)
def test_one_device(settings: dict[str, Any]) -> None:
    channels = SHAPE[settings.get("axis", 1)]
    found = on_device(bn.SyncBatchNorm(channels, dtype="float64", **settings), batches())
    for some, expected in zip(found, on_host(channels, **settings), strict=True):
        assert_close(some, expected)


def test_the_devices_of_one_process() -> None:
    """A thread for each: together they train as one process does with the whole batch."""
    parts = [slice(0, 3), slice(3, 8)]

    def train_rank(comm: Communicator) -> tuple[list[Any], Any]:
        with comm, simulated.on_device(comm.rank):
            layer = bn.SyncBatchNorm(3, comm=comm, dtype="float64", grad_reduction="sum")
            assert layer.weight.data.device_id == comm.rank
            results = on_device(layer, batches(parts[comm.rank]))
            comm.wait(timeout=WAIT_SECONDS)
            return results

    comms = syncnorm.comm.nccl_group([0, 1], init_timeout=WAIT_SECONDS, sum_timeout=WAIT_SECONDS)
    results, states = zip(*each(comms, train_rank), strict=True)
    expected, expected_state = on_host(3)
    assert_close([np.concatenate(pair) for pair in zip(*results, strict=True)], expected)
    for state in states:
        assert_close(state, expected_state)


def test_devices_are_given_out_in_turn() -> None:
    with simulated.on_device(0):
        assert [bn.select_device(rank) for rank in range(3)] == [0, 1, 0]
        assert bn.select_device(1) == simulated.current_device() == 1
        assert bn.SyncBatchNorm(3).weight.data.device_id == 1
    assert cpu.select_device(1) is None


def test_gradients_add_up_in_place() -> None:
    layer = bn.SyncBatchNorm(3, dtype=BFLOAT16)
    x, dy = (array(values, BFLOAT16) for values in batches()[0])
    layer(x)
    layer.backward(dy)
    held, once = layer.weight_grad, bn.to_numpy(layer.weight_grad)
    layer(x)
    layer.backward(dy)
    assert layer.weight_grad is held
    np.testing.assert_array_equal(bn.to_numpy(held), 2 * once)


def test_a_layer_makes_its_arrays_in_cupy_s_pool(pool: Pool) -> None:
    before = pool.requests
    layer = bn.SyncBatchNorm(3)
    assert pool.requests - before == len(layer.state_dict()) == 5
