"""syncnorm.cupy.SyncBatchNorm computes, saves and copies as the layer of syncnorm.numpy does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import pytest

from support import simulated_cuda as simulated
from support.cupy_on_host import array, arrays
from support.nccl_ranks import each, group
from syncnorm import cupy as bn
from syncnorm import numpy as cpu
from syncnorm.comm import thread_group

pytestmark = pytest.mark.usefixtures("pool")

SHAPE, CHANNELS, STEPS = (4, 3, 5), 3, 2
NAMES = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def values(result: Any) -> Any:
    return bn.to_numpy(result) if isinstance(result, cupy.ndarray) else result


def start(layer: Any) -> Any:
    """Numbers that no constructor makes."""
    random = np.random.default_rng(1)
    state = {name: random.uniform(1, 2, CHANNELS) for name in NAMES[:4]}
    layer.load_state_dict({**state, "num_batches_tracked": np.array(5)})
    return layer


def train(layer: Any, data: list[tuple[Any, ...]]) -> list[Any]:
    results = []
    for x, dy, residual in data:
        results += [layer(x, residual), *layer.backward(dy)]
    return [values(result) for result in [*results, layer.weight_grad, layer.bias_grad]]


@pytest.mark.parametrize("settings", [{}, {"momentum": None, "activation": "relu"}], ids=str)
def test_two_devices_train_as_two_threads(settings: dict[str, Any]) -> None:
    random = np.random.default_rng(2)
    data = random.standard_normal((2, STEPS, 3, *SHAPE))
    found: dict[tuple[str, int], Any] = {}

    def on_device(rank: int, comm: Any) -> None:
        with simulated.on_device(rank):
            layer = start(bn.SyncBatchNorm(CHANNELS, comm=comm, dtype="float64", **settings))
            steps = [tuple(array(a, "float64") for a in step) for step in data[rank]]
            found["device", rank] = (train(layer, steps), layer.state_dict())

    def on_thread(rank: int, comm: Any) -> None:
        layer = start(cpu.SyncBatchNorm(CHANNELS, comm=comm, dtype="float64", **settings))
        found["thread", rank] = (train(layer, data[rank].copy()), layer.state_dict())

    with group(2) as comms:
        each(list(enumerate(comms)), lambda pair: on_device(*pair))
    each(list(enumerate(thread_group(2))), lambda pair: on_thread(*pair))
    for rank in range(2):
        results, state = found["device", rank]
        expected, expected_state = found["thread", rank]
        assert list(state) == list(expected_state) == NAMES
        pairs = zip([*results, *state.values()], [*expected, *expected_state.values()], strict=True)
        for actual, value in pairs:
            np.testing.assert_allclose(actual, value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_state_copies_and_pickles(tmp_path: Any, dtype: Any) -> None:
    layer = start(bn.SyncBatchNorm(CHANNELS, dtype=dtype, activation="elu"))
    np.savez(tmp_path / "layer.npz", **layer.state_dict())
    loaded, taken = (bn.SyncBatchNorm(CHANNELS, dtype=dtype, activation="elu") for _ in range(2))
    with np.load(tmp_path / "layer.npz") as state:
        loaded.load_state_dict(state)
    taken.load_state_dict({name: getattr(layer, name) for name in NAMES})  # arrays of CuPy
    (x,) = arrays(SHAPE, 1, dtype)
    y = values(layer.eval()(x))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded, taken):
        assert type(other.weight) is cupy.ndarray
        assert other.weight.data.ptr != layer.weight.data.ptr
        np.testing.assert_array_equal(values(other.eval()(x)), y)
        for name, held in layer.state_dict().items():
            np.testing.assert_array_equal(other.state_dict()[name], held)


def test_a_state_goes_from_one_library_to_the_other() -> None:
    layer = start(bn.SyncBatchNorm(CHANNELS))
    other = cpu.SyncBatchNorm(CHANNELS)
    other.load_state_dict(layer.state_dict())
    back = bn.SyncBatchNorm(CHANNELS)
    back.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(values(back.running_var), other.running_var)
    with pytest.raises(TypeError, match=r"weight: got .*cupy.*ndarray: Implicit conversion"):
        other.load_state_dict({"weight": layer.weight}, strict=False)


def test_arrays_of_numpy_are_refused() -> None:
    layer = bn.SyncBatchNorm(CHANNELS)
    with pytest.raises(TypeError, match=r"x: got numpy.* in host memory"):
        layer(np.ones(SHAPE, np.float32))
    assert layer.outstanding == 0
