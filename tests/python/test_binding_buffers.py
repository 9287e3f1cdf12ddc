"""_core.Array over objects with the buffer protocol, and where two arrays overlap."""

from __future__ import annotations

import array
import gc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import syncnorm
from syncnorm import _core

OPTIONS = _core.Options()
N, C, S = 2, 3, 4
VALUES = np.arange(float(N * C * S))


def dense(buffer: Any, dtype: str = "float64") -> _core.Array:
    return _core.Array(buffer, (N, C, S), (C * S, S, 1), dtype)


def normalize(x: _core.Array, y: _core.Array) -> None:
    scratch = np.empty(_core.sizes(x, OPTIONS).workspace + 64, np.uint8)
    aligned = scratch[-scratch.ctypes.data % 64 :]
    workspace = _core.Array(aligned, aligned.shape, (1,), "uint8")
    _core.forward(OPTIONS, None, x, y, workspace=workspace)


def expected() -> np.ndarray:
    x = VALUES.reshape(N, C, S)
    mean, var = x.mean((0, 2), keepdims=True), x.var((0, 2), keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5)


SOURCES = {
    "numpy": VALUES,
    "bytes": VALUES.tobytes(),
    "bytearray": bytearray(VALUES.tobytes()),
    "memoryview": memoryview(VALUES),
    "array": array.array("d", VALUES),
    "read-only": np.frombuffer(VALUES.tobytes()),
    "another format": VALUES.view("M8[s]").view("V8"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_read_from_any_buffer(name: str) -> None:
    y = np.empty((N, C, S))
    normalize(dense(SOURCES[name]), dense(y))
    np.testing.assert_allclose(y, expected(), rtol=1e-14)


def test_written_into_a_bytearray() -> None:
    memory = bytearray(VALUES.nbytes)
    normalize(dense(VALUES), dense(memory))
    np.testing.assert_allclose(np.frombuffer(memory).reshape(N, C, S), expected(), rtol=1e-14)


@pytest.mark.parametrize("name", ["bytes", "read-only"])
def test_a_read_only_buffer_is_no_output(name: str) -> None:
    y = dense(SOURCES[name])
    assert repr(y).endswith("read_only=True)")
    with pytest.raises(syncnorm.InvalidArgumentError, match="y: is read-only"):
        normalize(dense(VALUES), y)


def test_a_dtype_without_a_format() -> None:
    """The protocol has no letter for bfloat16: the caller says what it is."""
    x = VALUES.astype(ml_dtypes.bfloat16)
    y = np.empty((N, C, S), ml_dtypes.bfloat16)
    normalize(dense(x, "bfloat16"), dense(y, "bfloat16"))
    np.testing.assert_allclose(y.astype(float), expected(), rtol=2**-8)


def test_the_first_element_is_where_the_buffer_begins() -> None:
    """The caller gives the strides of the buffer itself, also negative ones."""
    backwards = _core.Array(VALUES[::-1], (N, C, S), (-C * S, -S, -1), "float64")
    y = np.empty((N, C, S))
    normalize(dense(VALUES.copy()), _core.Array(y, (N, C, S), (C * S, S, 1), "float64"))
    assert backwards.overlaps(_core.Array(VALUES[-1:], (1,), (1,), "float64"))
    np.testing.assert_allclose(y, expected(), rtol=1e-14)


def test_the_buffer_is_exported_as_long_as_the_array_lives() -> None:
    memory = bytearray(VALUES.tobytes())
    view = dense(memory)
    with pytest.raises(BufferError):
        memory.clear()
    del view
    gc.collect()
    memory.clear()
    assert not memory


def test_the_memory_is_kept_alive() -> None:
    x, y = dense(VALUES.copy()), np.empty((N, C, S))
    reused = [np.zeros(VALUES.shape) for _ in range(20)]
    normalize(x, dense(y))
    np.testing.assert_allclose(y, expected(), rtol=1e-14)
    assert len(reused) == 20


@pytest.mark.parametrize(
    "value", [1.5, "text", [1.0], object()], ids=["float", "str", "list", "object"]
)
def test_what_is_no_buffer(value: object) -> None:
    with pytest.raises(syncnorm.ArgumentTypeError, match="pointer: got "):
        dense(value)


def test_none_is_no_buffer() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        dense(None)


@pytest.mark.parametrize(
    ("shape", "strides", "dtype", "message"),
    [
        ((24,), (1, 1), "float64", "strides: got 2 values"),
        ((-1,), (1,), "float64", "shape: got a size of -1"),
        ((24,), (1,), "float8", "dtype: got 'float8'"),
    ],
)
def test_the_rest_is_checked_and_the_buffer_released(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: str, message: str
) -> None:
    memory = bytearray(VALUES.nbytes)
    with pytest.raises(syncnorm.InvalidArgumentError, match=message):
        _core.Array(memory, shape, strides, dtype)
    memory.clear()


def part(start: int, count: int, stride: int = 1) -> _core.Array:
    return _core.Array(VALUES[start::stride][:count], (count,), (stride,), "float64")


def test_overlaps() -> None:
    assert part(0, 4).overlaps(part(3, 1))
    assert part(3, 1).overlaps(part(0, 4))
    assert part(0, 4).overlaps(part(0, 4))
    assert not part(0, 4).overlaps(part(4, 4))
    assert not part(4, 4).overlaps(part(0, 4))
    assert not part(0, 0).overlaps(part(0, 4))
    assert not part(2, 0).overlaps(part(0, 4))
    assert not part(0, 4).overlaps(dense(VALUES.copy()))
    # From the first to the last element, whatever lies between.
    assert part(0, 3, stride=4).overlaps(part(1, 1))
    assert part(8, 3, stride=-4).overlaps(part(0, 1))
    assert not part(8, 3, stride=-3).overlaps(part(0, 2))
    assert not part(8, 3, stride=-3).overlaps(part(9, 2))
    assert part(8, 1, stride=99).overlaps(part(8, 1))
    assert not part(8, 1, stride=99).overlaps(part(9, 1))


def test_elements_at_odd_addresses_are_refused() -> None:
    memory = np.zeros(VALUES.nbytes + 8, np.uint8)
    odd = _core.Array(memory[4:], (N, C, S), (C * S, S, 1), "float64")
    y = np.empty((N, C, S))
    for x, out, name in ((odd, dense(y), "x"), (dense(VALUES), odd, "y")):
        with pytest.raises(
            syncnorm.InvalidArgumentError, match=f"{name}: got an address that is not"
        ):
            normalize(x, out)
    assert not memory.any()
