"""Descriptions of arrays that are not true: refused, and the memory outside is not touched."""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import numpy as np
import pytest

import syncnorm
from support.dlpack_exchange import EXCHANGE_API
from syncnorm import _core

OPTIONS = _core.Options()
VALUES = np.arange(24.0)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((25,), (1,)),
        ((24,), (2,)),
        ((2, 3, 5), (15, 5, 1)),
        ((24,), (-1,)),
        ((2, 12), (-12, 1)),
        ((2, 2), (23, 1)),
        ((2,), (2**62,)),
        ((2,), (2**60,)),
        ((2,), (-(2**63),)),
        ((3, 3), (2**61, 2**61)),
        ((2, 2), (2**60, -(2**60))),
        ((2**40, 2**40), (0, 0)),
        ((2**62,), (1,)),
        ((2**62, 0), (1, 1)),
    ],
)
def test_elements_outside_the_buffer(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    memory = bytearray(VALUES.tobytes())
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"(shape|strides): got "):
        _core.Array(memory, shape, strides, "float64")
    memory.clear()  # not exported any longer


def test_the_message_says_which_bytes() -> None:
    message = "the bytes -8 to 192 from the first element.*has the bytes 0 to 192"
    with pytest.raises(syncnorm.InvalidArgumentError, match=message):
        _core.Array(VALUES, (24, 2), (1, -1), "float64")


@pytest.mark.parametrize(
    ("buffer", "shape", "strides"),
    [
        (VALUES, (24,), (1,)),
        (VALUES, (4, 24), (0, 1)),
        (VALUES, (2, 1), (23, 10**9)),
        (VALUES, (0,), (10**9,)),
        (VALUES[:0], (0, 7), (7, 1)),
        (VALUES[::-1], (24,), (-1,)),
        (VALUES.reshape(4, 6)[::-1, 1:3], (4, 2), (-6, 1)),
        (VALUES[::3], (8,), (3,)),
        (np.float64(1).reshape(()), (), ()),
        (np.float64(1).reshape(()), (1,), (1,)),
    ],
)
def test_elements_inside_the_buffer(
    buffer: Any, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    _core.Array(buffer, shape, strides, "float64")


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_the_size_of_the_dtype_counts(dtype: str) -> None:
    size = {"uint8": 1, "float16": 2, "float32": 4}[dtype]
    count = VALUES.nbytes // size
    _core.Array(VALUES, (count,), (1,), dtype)
    with pytest.raises(syncnorm.InvalidArgumentError, match="inside the buffer"):
        _core.Array(VALUES, (count + 1,), (1,), dtype)


@pytest.mark.parametrize(
    ("pointer", "shape", "strides"),
    [
        (2**64 - 8, (2,), (1,)),
        (8, (3,), (-1,)),
        (64, (2,), (2**61,)),
        (64, (2**62,), (1,)),
        (64, (2**32, 2**31), (1, 1)),
    ],
)
def test_addresses_that_wrap(
    pointer: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"(shape|strides): got "):
        _core.Array(pointer, shape, strides, "float64")


@pytest.mark.parametrize(
    "given",
    [
        (2**64, (1,), (1,), "float64"),
        (-1, (1,), (1,), "float64"),
        (VALUES, (2**63,), (1,), "float64"),
        (VALUES, (1,), (-(2**63) - 1,), "float64"),
        (VALUES, (2**200,), (1,), "float64"),
        (VALUES, (1.5,), (1,), "float64"),
        (VALUES, None, (1,), "float64"),
        (0, (1,), (1,), "float64", "cuda", 2**31),
    ],
)
def test_integers_that_do_not_fit(given: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        _core.Array(*given)


# ------------------------------------------------------------------- DLPack's C exchange table


class Producer:
    """A tensor of (2, 3, 4) float32, in which a test changes some fields."""

    __dlpack_c_exchange_api__: ClassVar[object] = EXCHANGE_API

    def __init__(self, **changed: Any) -> None:
        self.memory = np.arange(24, dtype=np.float32)
        self.shape = (ctypes.c_int64 * 80)(*changed.pop("sizes", (2, 3, 4)))
        self.strides = (ctypes.c_int64 * 80)(*changed.pop("steps", (12, 4, 1)))
        self._fields: dict[str, Any] = {
            "data": self.memory.ctypes.data,
            "device_type": 1,
            "ndim": 3,
            "code": 2,
            "bits": 32,
            "lanes": 1,
            "shape": ctypes.addressof(self.shape),
            "strides": ctypes.addressof(self.strides),
            **changed,
        }

    def fields(self) -> dict[str, Any]:
        return self._fields


def test_a_producer_that_tells_the_truth() -> None:
    x, y = Producer(), Producer()
    _core.forward(OPTIONS, None, x, y)
    assert abs(y.memory.reshape(2, 3, 4).mean((0, 2))).max() < 1e-6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ndim": -1}, "with -1 axes"),
        ({"ndim": 65}, "with 65 axes"),
        ({"ndim": 2**31 - 1}, "axes"),
        ({"shape": None}, "without a shape"),
        ({"strides": None}, "without strides"),
        ({"lanes": 4}, "4 lanes"),
        ({"lanes": 0}, "0 lanes"),
        ({"bits": 0}, "dtype"),
        ({"bits": 255}, "dtype"),
        ({"code": 200}, "dtype"),
        ({"device_type": -7}, "device of DLPack type -7"),
        ({"data": None}, "null pointer|is NULL"),
        ({"data": None, "byte_offset": 64}, "null pointer|is NULL"),
        ({"byte_offset": 1}, "multiple of the 4 bytes"),
        ({"sizes": (2, -3, 4)}, "size of -3"),
        ({"sizes": (0, 2**60, 1)}, "shape"),
        ({"sizes": (2**31, 2**31, 2**31)}, "63 bits"),
        ({"sizes": (2**62, 0, 2**62)}, "63 bits"),
        ({"steps": (2**62, 2**62, 2**62)}, "strides"),
        ({"steps": (-12, -4, -1)}, "strides"),
    ],
)
@pytest.mark.parametrize("argument", ["x", "y"])
def test_a_producer_that_lies(changed: dict[str, Any], message: str, argument: str) -> None:
    given: dict[str, Any] = {"x": Producer(), "y": Producer(), argument: Producer(**changed)}
    with pytest.raises(syncnorm.Error, match=message if argument == "x" else None):
        _core.forward(OPTIONS, None, **given)
    assert (given["y"].memory == np.arange(24)).all()


@pytest.mark.parametrize("argument", ["workspace", "control", "status"])
def test_a_producer_that_lies_about_scratch(argument: str) -> None:
    wrong: dict[str, Any] = {
        argument: Producer(sizes=(2**40, 2**40, 2**40), code=0, bits=32),
    }
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"{argument}: got "):
        _core.forward(OPTIONS, None, Producer(), Producer(), **wrong)
