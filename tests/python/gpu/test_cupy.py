"""syncnorm.cupy on the device: its numbers, and which arrays it takes."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

cupy = pytest.importorskip("cupy", reason="CuPy is not installed on this machine")

from cupy_arrays import ADAPTER, bits, random  # noqa: E402

import syncnorm.comm  # noqa: E402
from support import adapter_driver  # noqa: E402
from support.cases import Case, simple_case  # noqa: E402
from support.compare import check_frozen, check_training  # noqa: E402
from support.driver import assert_same_bits  # noqa: E402
from syncnorm import cupy as bn  # noqa: E402
from syncnorm import numpy as cpu  # noqa: E402
from syncnorm.torch import SyncBatchNorm  # noqa: E402

SHAPE = (6, 5, 24, 17)
BFLOAT16 = pytest.param(
    "bfloat16",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("ml_dtypes") is None, reason="ml_dtypes is not installed"
    ),
)


@pytest.fixture(autouse=True)
def a_stream_of_cupy() -> Iterator[None]:
    """One that does not wait for the default stream, nor that for it."""
    with cupy.cuda.Stream(non_blocking=True):
        yield


# ----------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float32", "float64"])
def test_training(dtype: str, layout: str) -> None:
    case = simple_case(
        dtype, batches=(3, 2), layout=layout, residual=True, masked="some", activation="relu"
    )
    check_training(case, adapter_driver.run_phases(ADAPTER, case))


@pytest.mark.parametrize(
    "case",
    [
        simple_case(batches=(0, 4), weighting="batch"),
        simple_case(batches=(0, 0), momentum=None),
        simple_case(batches=(3, 2), activation="elu", in_place=True),
        simple_case("float64", batches=(3, 1), ratio=1e6),
        simple_case(batches=(3, 2), weighting="equal", grad_reduction="mean", momentum=None),
    ],
    ids=["an empty rank", "no values", "in place", "centred", "equal weights"],
)
def test_training_of_other_kinds(case: Case) -> None:
    check_training(case, adapter_driver.run_phases(ADAPTER, case))


@pytest.mark.parametrize("spatial", [(7,), (65, 63)], ids=str)
def test_a_group_of_one(spatial: tuple[int, ...]) -> None:
    case = simple_case(batches=(5,), channels=7, spatial=spatial)
    ranks = adapter_driver.run_one_call(ADAPTER, case, alone=True)
    check_training(case, ranks)
    assert_same_bits(ranks, adapter_driver.run_one_call(ADAPTER, case, alone=True))


def test_running_statistics_in_use() -> None:
    case = simple_case(batches=(3, 0), residual=True, activation="leaky_relu")
    check_frozen(case, adapter_driver.run_frozen(ADAPTER, case))


@pytest.mark.parametrize("axis", [0, 2, -1, (1, 2), (0, 3)], ids=str)
def test_any_axes_may_be_the_channels(axis: int | tuple[int, ...]) -> None:
    x, dy = random(SHAPE, 1, "float64"), random(SHAPE, 2, "float64")
    y, saved = bn.forward(x, axis=axis)
    host_y, host_saved = cpu.forward(cupy.asnumpy(x), axis=axis)
    np.testing.assert_allclose(cupy.asnumpy(y), host_y, rtol=1e-12, atol=1e-12)
    dx = cupy.asnumpy(bn.backward(dy, saved).dx)
    host_dx = cpu.backward(cupy.asnumpy(dy), host_saved).dx
    np.testing.assert_allclose(dx, host_dx, rtol=1e-11, atol=1e-11)


# ----------------------------------------------------------------------------------------- arrays


class Labelled(cupy.ndarray):
    """A subclass, whose results would be of it."""


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float32"])
def test_arrays_with_gaps_and_subclasses(dtype: str) -> None:
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x, dy = random(SHAPE, 1, dtype), random(SHAPE, 2, dtype)
    weight = random((10,), 3)
    results = []
    for lying in (lambda a: a, cupy.ascontiguousarray, lambda a: a.view(Labelled)):
        y, saved = bn.forward(lying(x[:, ::-1, ::2]), lying(weight[::2]))
        dx, dweight, _ = bn.backward(lying(dy[:, ::-1, ::2]), saved)
        assert {type(result) for result in (y, dx, dweight)} == {cupy.ndarray}
        results.append(bits(y, dx, dweight))
    assert results[0] == results[1] == results[2]


class OfInterface:
    """An array of another library that has nothing but this interface."""

    def __init__(self, array: Any) -> None:
        self.__cuda_array_interface__ = array.__cuda_array_interface__


@pytest.mark.parametrize("foreign", [torch.from_dlpack, OfInterface])
def test_arrays_of_other_libraries_are_used_in_place(foreign: Any) -> None:
    x, dy, weight, bias, mean = (random(s, i) for i, s in enumerate((SHAPE, SHAPE, *[(5,)] * 3)))
    var, other_mean, other_var = cupy.ones(5, "float32"), mean.copy(), cupy.ones(5, "float32")
    y, saved = bn.forward(x, weight, bias, mean, var)
    # The producer has other streams than CuPy.
    cupy.cuda.get_current_stream().synchronize()
    given = [foreign(array) for array in (x, weight, bias, other_mean, other_var, dy)]
    other_y, other_saved = bn.forward(*given[:5])
    assert type(other_y) is cupy.ndarray
    other_dx = bn.backward(given[5], other_saved).dx
    assert bits(other_y, other_dx) == bits(y, bn.backward(dy, saved).dx)
    assert bits(other_mean, other_var) == bits(mean, var)


def test_bfloat16_of_torch() -> None:
    pytest.importorskip("ml_dtypes")
    x = torch.randn(SHAPE, device="cuda", dtype=torch.bfloat16)
    y, _ = bn.forward(x)
    assert y.dtype.name == "bfloat16"
    expected, _ = cpu.forward(x.float().cpu().numpy())
    np.testing.assert_allclose(cupy.asnumpy(y).astype("float32"), expected, rtol=0.01, atol=0.01)


def test_cupy_s_memory_through_dlpack() -> None:
    """The other way round: the torch layer on CuPy's memory."""
    x = random((8, 5, 30))
    cupy.cuda.get_current_stream().synchronize()
    y = SyncBatchNorm(5, device="cuda")(torch.from_dlpack(x))
    mean = cupy.from_dlpack(y.detach()).mean(axis=(0, 2))
    cupy.testing.assert_allclose(mean, 0, atol=1e-5)


def test_numpy_s_arrays_are_refused_and_the_reverse() -> None:
    host = np.zeros(SHAPE, np.float32)
    with pytest.raises(TypeError, match=r"x: got numpy\.ndarray in host memory"):
        bn.forward(host)
    with pytest.raises(TypeError, match=r"x: got torch\.Tensor in host memory"):
        bn.forward(torch.from_numpy(host))
    with pytest.raises(TypeError, match=r"x: got cupy\.ndarray on a device.*syncnorm\.cupy"):
        cpu.forward(cupy.asarray(host))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two devices")
def test_another_device_than_the_current_one_is_refused() -> None:
    with cupy.cuda.Device(1):
        elsewhere = cupy.zeros(SHAPE, "float32")
    with pytest.raises(syncnorm.InvalidArgumentError, match="x: is on CUDA device 1, expected"):
        bn.forward(elsewhere)


# ----------------------------------------------------------------------------------------- layers


def train(layer: Any, xp: Any, rows: slice) -> dict[str, np.ndarray]:
    random = np.random.default_rng(4)
    for _ in range(4):
        x, dy = (xp.asarray(a[rows]) for a in random.standard_normal((2, 8, 5, 6, 7)))
        layer(x)
        layer.backward(dy)
        layer.weight -= 0.5 * layer.weight_grad
        layer.bias -= 0.5 * layer.bias_grad
        layer.zero_grad()
    return layer.state_dict()


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10, err_msg=name)


@functools.cache
def expected() -> dict[str, np.ndarray]:
    return train(cpu.SyncBatchNorm(5, dtype="float64"), np, slice(None))


def test_a_layer_trains_as_with_numpy() -> None:
    assert_close(train(bn.SyncBatchNorm(5, dtype="float64"), cupy, slice(None)), expected())


def test_the_devices_of_one_process_train_together() -> None:
    """A thread for each device, as many as there are, but not more than have a row."""
    count = min(8, cupy.cuda.runtime.getDeviceCount())
    bounds = np.linspace(0, 8, count + 1).astype(int)

    def train_rank(comm: syncnorm.Communicator) -> dict[str, np.ndarray]:
        with comm, cupy.cuda.Device(comm.rank), cupy.cuda.Stream(non_blocking=True) as stream:
            layer = bn.SyncBatchNorm(5, comm=comm, dtype="float64", grad_reduction="sum")
            state = train(layer, cupy, slice(*bounds[comm.rank : comm.rank + 2]))
            comm.wait(stream=stream.ptr, timeout=60.0)
            return state

    comms = syncnorm.comm.nccl_group(range(count), init_timeout=60.0)
    with ThreadPoolExecutor(count) as pool:
        for state in pool.map(train_rank, comms):
            assert_close(state, expected())
