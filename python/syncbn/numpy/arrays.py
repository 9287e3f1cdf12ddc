"""NumPy arrays as the core sees them."""

from __future__ import annotations

from typing import Any

import numpy as np

from syncbn import _core
from syncbn._core import InvalidArgumentError

_ALIGNMENT = 64  # what the core asks of a workspace


def view(array: np.ndarray[Any, Any] | None, name: str) -> _core.Array | None:
    """The array behind an argument, kept alive, not copied; read-only if the array is."""
    if array is None:
        return None
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: got {type(array).__name__}, expected a numpy.ndarray")
    if not array.dtype.isnative:
        raise InvalidArgumentError(f"{name}: got dtype {array.dtype}, expected native byte order")
    size = array.itemsize
    if any(stride % size for stride in array.strides):
        raise InvalidArgumentError(
            f"{name}: got byte strides {array.strides}, expected multiples of {size}: pass a copy"
        )
    return _core.Array(
        array.ctypes.data,
        array.shape,
        [stride // size for stride in array.strides],
        array.dtype.name,
        read_only=not array.flags.writeable,
        owner=array,
    )


def dense(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """x, or a copy of it where it is dense neither channels first nor channels last."""
    if x.ndim < 2 or x.flags.c_contiguous or np.moveaxis(x, 1, -1).flags.c_contiguous:
        return x
    return np.ascontiguousarray(x)


def in_layout_of(
    x: np.ndarray[Any, Any], array: np.ndarray[Any, Any] | None
) -> np.ndarray[Any, Any] | None:
    """An input array, copied where it does not lie as the dense array x does."""
    if array is None or array.shape != x.shape or _steps(array) == _steps(x):
        return array
    copy = np.empty_like(x, dtype=array.dtype)
    copy[...] = array
    return copy


def workspace(x: np.ndarray[Any, Any], options: _core.Options) -> _core.Array | None:
    """Fresh scratch for a call with x, aligned as the core asks; its content is arbitrary."""
    size = _core.sizes(view(x, "x"), options).workspace
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return view(memory[start : start + size], "workspace")


def _steps(array: np.ndarray[Any, Any]) -> list[int]:
    # In elements; strides of axes with one element say nothing about where values lie.
    return [
        stride // array.itemsize
        for stride, length in zip(array.strides, array.shape, strict=True)
        if length > 1
    ]
