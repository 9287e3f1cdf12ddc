"""Which arrays syncnorm.cupy takes, how they may lie, and what it gives back."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest

import syncnorm.comm
from support import simulated_cuda as simulated
from support.cupy_on_host import array, arrays, over
from syncnorm import cupy as bn
from syncnorm import numpy as cpu

pytestmark = pytest.mark.usefixtures("pool")

SHAPE = (4, 6, 5, 3)


def values(result: Any) -> np.ndarray:
    return bn.to_numpy(result)


def both_passes(x: Any, dy: Any, **arguments: Any) -> list[np.ndarray]:
    y, saved = bn.forward(x, **arguments)
    dx, dweight, dbias = bn.backward(dy, saved)
    given = (dresidual := bn.backward(dy, saved).dresidual) is not None
    results = [y, dx, *([dresidual] if given else [])]
    assert {type(result) for result in results} == {cupy.ndarray}
    return [values(r) for r in (*results, dweight, dbias) if r is not None]


# ------------------------------------------------------------------------------------ how they lie


@pytest.mark.parametrize("axis", [0, 1, 2, -1, (1, 2), (2, 3), (0, 3), (1, -1)], ids=str)
def test_any_axes_may_be_the_channels(axis: int | tuple[int, ...]) -> None:
    x, dy = arrays(SHAPE, 2, "float64")
    y, saved = bn.forward(x, axis=axis)
    host_y, host_saved = cpu.forward(values(x), axis=axis)
    np.testing.assert_allclose(values(y), host_y, rtol=1e-12, atol=1e-12)
    dx, host_dx = bn.backward(dy, saved).dx, cpu.backward(values(dy), host_saved).dx
    np.testing.assert_allclose(values(dx), host_dx, rtol=1e-11, atol=1e-11)


def with_gaps(given: cupy.ndarray) -> cupy.ndarray:
    """The same values, every other place in memory, axes in the opposite order."""
    host = values(given)
    spread = np.full(tuple(2 * n for n in reversed(host.shape)), np.nan).astype(host.dtype)
    view = spread[tuple(slice(None, None, 2) for _ in host.shape)].T
    view[...] = host
    return over(view)


def backwards(given: cupy.ndarray) -> cupy.ndarray:
    """The same values, with negative strides."""
    host = values(given)
    flips = (slice(None, None, -1),) * host.ndim
    return over(host[flips].copy()[flips])


@pytest.mark.parametrize("lying", [with_gaps, backwards])
def test_arrays_that_are_not_contiguous(lying: Any) -> None:
    x, dy, residual = arrays(SHAPE, 3)
    mask = array(np.random.default_rng(1).random((4, 5, 3)) < 0.7, "bool")
    weight, bias = arrays((6,), 2)
    inputs = {"residual": residual, "mask": mask, "weight": weight, "bias": bias}
    expected = both_passes(x, dy, **inputs, activation="relu")
    moved = {name: lying(given) for name, given in inputs.items()}
    got = both_passes(lying(x), lying(dy), **moved, activation="relu")
    # A copy may lie in another layout, whose sums are added in another order.
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_channels_last_stays_so_without_a_copy(pool: Any) -> None:
    x = arrays((4, 5, 3, 6), 1)[0].transpose(0, 3, 1, 2)
    before = pool.requests
    y, _ = bn.forward(x)
    assert y.strides == x.strides
    # y, the statistics, the workspace and, as it is the first call, the control buffer.
    assert pool.requests - before == 4


class Labelled(cupy.ndarray):
    """A subclass, whose results would be of it."""


def test_a_subclass_counts_as_a_plain_array() -> None:
    x, dy, out = arrays(SHAPE, 3)
    expected = both_passes(x, dy)
    x, dy, out = (given.view(Labelled) for given in (x, dy, out))
    for one, other in zip(both_passes(x, dy, out=out), expected, strict=True):
        assert one.tobytes() == other.tobytes()
    assert values(out).tobytes() == expected[0].tobytes()


# ------------------------------------------------------------------------------ of other libraries


class OfDlpack:
    """An array of another library on a device. Its memory is a NumPy array."""

    def __init__(self, memory: np.ndarray, kind: int = 2) -> None:
        self.memory, self.kind = memory, kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **_: Any) -> None:
        raise AssertionError("CuPy asks for it, which has no driver here")


class OfInterface:
    """The same, by the interface of Numba."""

    def __init__(self, memory: np.ndarray, where_it_was: int = 0) -> None:
        self.memory = memory
        address = where_it_was or memory.ctypes.data
        self.__cuda_array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": memory.shape,
            "typestr": memory.dtype.str,
        }


@pytest.mark.parametrize("foreign", [OfDlpack, OfInterface])
def test_arrays_of_other_libraries_are_used_in_place(foreign: Any) -> None:
    x, dy, weight, bias, mean = (values(a) for a in (*arrays(SHAPE, 2), *arrays((6,), 3)))
    own = [array(a) for a in (x, dy, weight, bias, mean)]
    var, own_var = np.ones(6, np.float32), array(np.ones(6))
    out = np.zeros(SHAPE, np.float32)
    y, saved = bn.forward(own[0], *own[2:], own_var)
    foreign_y, foreign_saved = bn.forward(
        *(foreign(a) for a in (x, weight, bias, mean, var)), out=foreign(out)
    )
    assert type(foreign_y) is cupy.ndarray
    dx, foreign_dx = bn.backward(own[1], saved).dx, bn.backward(foreign(dy), foreign_saved).dx
    assert values(foreign_dx).tobytes() == values(dx).tobytes()
    for written, expected in ((out, y), (mean, own[4]), (var, own_var)):
        assert written.tobytes() == values(expected).tobytes()


def test_an_interface_that_cupy_had_to_copy_is_refused() -> None:
    """Else what is written would be written into the copy."""
    moved = OfInterface(np.ones(6, np.float32), where_it_was=4096)
    expected = r"running_mean: got .*OfInterface that CuPy had to copy"
    with pytest.raises(syncnorm.InvalidArgumentError, match=expected):
        bn.forward(*arrays(SHAPE, 1), None, None, moved, array(np.ones(6)))


# ---------------------------------------------------------------------------------------- refusals


def test_numpy_s_arrays_are_refused_and_the_reverse() -> None:
    host = np.zeros(SHAPE, np.float32)
    with pytest.raises(TypeError, match=r"x: got numpy\.ndarray in host memory.*cupy\.asarray"):
        bn.forward(host)
    with pytest.raises(TypeError, match=r"weight: got numpy\.ndarray .*syncnorm\.numpy"):
        bn.forward(array(host), np.ones(6, np.float32))
    with pytest.raises(TypeError, match=r"x: got .*OfDlpack on a device.*syncnorm\.cupy"):
        cpu.forward(OfDlpack(host))


@pytest.mark.parametrize("value", [[[1.0]], 3, None, "x", np.float32(1)], ids=repr)
def test_what_is_no_array_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"x: got .*expected a cupy\.ndarray or another"):
        bn.forward(value)


@pytest.mark.parametrize(
    ("kind", "where"), [(1, "host memory"), (3, "host memory"), (10, "memory of .* type 10")]
)
def test_memory_that_is_no_cuda_device_s_is_refused(kind: int, where: str) -> None:
    with pytest.raises(TypeError, match=f"x: got .*OfDlpack in {where}, expected"):
        bn.forward(OfDlpack(np.zeros(SHAPE, np.float32), kind))


def test_managed_memory_is_taken() -> None:
    y, _ = bn.forward(OfDlpack(np.ones(SHAPE, np.float32), kind=13))
    assert not values(y).any()


@pytest.mark.parametrize("name", ["x", "weight", "running_mean", "residual", "mask", "out"])
def test_an_array_on_another_device_is_refused(name: str) -> None:
    host = {
        "x": np.ones(SHAPE, np.float32),
        "residual": np.ones(SHAPE, np.float32),
        "out": np.ones(SHAPE, np.float32),
        "mask": np.ones((4, 5, 3), np.uint8),
        **{n: np.ones(6, np.float32) for n in ("weight", "running_mean", "running_var")},
    }
    given = {n: over(a, device=int(n == name)) for n, a in host.items()}
    expected = rf"{name}: is on CUDA device 1, expected the current device, 0.*Device\(1\)"
    with pytest.raises(syncnorm.InvalidArgumentError, match=expected):
        bn.forward(**given)
    assert host["running_mean"].tolist() == [1] * 6


def test_a_gradient_on_another_device_is_refused() -> None:
    x, dy = arrays(SHAPE, 2)
    _, saved = bn.forward(x)
    with (
        simulated.on_device(1),
        pytest.raises(syncnorm.InvalidArgumentError, match="dy: is on CUDA"),
    ):
        bn.backward(dy, saved)
    elsewhere = over(values(dy), device=1)
    with pytest.raises(syncnorm.InvalidArgumentError, match="dy: is on CUDA device 1"):
        bn.backward(elsewhere, saved)
    # With dy it says what is amiss with x.
    with simulated.on_device(1), pytest.raises(syncnorm.InvalidArgumentError, match="cuda:1"):
        bn.backward(elsewhere, saved)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "uint16"])
def test_a_dtype_that_the_core_does_not_know_is_refused(dtype: str) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"dtype.* {dtype}|'{dtype}'"):
        bn.forward(array(np.ones(SHAPE), dtype))


def test_a_communicator_of_the_host_s_memory_is_refused() -> None:
    one, other = syncnorm.comm.thread_group(2)
    with one, other, pytest.raises(syncnorm.UnsupportedError, match="sums host memory only"):
        bn.forward(*arrays(SHAPE, 1), comm=one)
