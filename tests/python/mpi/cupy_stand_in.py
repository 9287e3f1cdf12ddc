"""Runs a program of syncnorm.cupy without a device: cupy_stand_in.py PROGRAM [ARGUMENT...]

In place of CuPy's arrays come arrays that compute with NumPy and refuse what CuPy's refuse: to meet
an array of NumPy, to become one unasked, and functions and methods that CuPy does not have.
"""

from __future__ import annotations

import runpy
import sys
import types
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

import syncnorm.arrays
from syncnorm.arrays import Functions
from syncnorm.numpy.library import NumpyLibrary


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array whose memory is out of the host's reach, but for code that asks for `values`."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __array__(self, *_: object, **__: object) -> None:
        raise TypeError("implicit conversion to a NumPy array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        getattr(cupy, ufunc.__name__)
        return on_device(getattr(ufunc, method))(*inputs, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # __dlpack__ and its like: ways to the memory
            raise AttributeError(name)
        getattr(cupy.ndarray, name)
        found = getattr(self.values, name)
        return on_device(found) if callable(found) else wrapped(found)

    def __getitem__(self, key: Any) -> DeviceArray:
        return wrapped(self.values[unwrapped(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[unwrapped(key)] = unwrapped(value)

    def __float__(self) -> float:
        return float(self.values)


def unwrapped(value: Any) -> Any:
    """An argument for NumPy."""
    if isinstance(value, np.ndarray):
        raise TypeError("CuPy does not take an array of NumPy here")
    if isinstance(value, (list, tuple)):
        return type(value)(unwrapped(item) for item in value)
    return value.values if isinstance(value, DeviceArray) else value


def wrapped(value: Any) -> Any:
    """A result of NumPy; CuPy's scalars are arrays."""
    if isinstance(value, (np.ndarray, np.generic)):
        return DeviceArray(np.asarray(value))
    return value


def on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        keywords = {name: unwrapped(value) for name, value in keywords.items()}
        return wrapped(function(*unwrapped(arguments), **keywords))

    return call


class Namespace:
    """NumPy's functions, as far as CuPy has them."""

    def __getattr__(self, name: str) -> Any:
        getattr(cupy, name)
        return on_device(getattr(np, name))

    def asarray(self, value: Any, dtype: Any = None) -> DeviceArray:
        """The way from the host to the device."""
        return DeviceArray(np.array(getattr(value, "values", value), dtype))


class Library(NumpyLibrary):
    """What the adapter asks of CuPy, answered by NumPy."""

    def as_array(self, value: Any, name: str) -> Any:
        if not isinstance(value, DeviceArray):
            raise TypeError(f"{name}: got {type(value).__name__}, expected an array on the device")
        return value

    def view(self, array: Any, *arguments: Any) -> Any:
        return super().view(array.values if isinstance(array, DeviceArray) else array, *arguments)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return DeviceArray(np.empty(shape, dtype))

    def assign(self, target: Any, value: Any) -> None:
        target.values[...] = getattr(value, "values", value)

    def add(self, target: Any, value: Any) -> None:
        target.values[...] += value.values

    def to_numpy(self, array: Any) -> np.ndarray:
        return array.values.copy()


def face() -> types.ModuleType:
    """What stands in for the module syncnorm.cupy."""
    module: Any = types.ModuleType("syncnorm.cupy")
    module.xp = Namespace()
    library = Library()
    functions = Functions(library)
    module.SyncBatchNorm = type(
        "SyncBatchNorm", (syncnorm.arrays.SyncBatchNorm,), {"functions": functions}
    )
    module.to_numpy, module.select_device = library.to_numpy, library.select_device
    return module


if __name__ == "__main__":
    sys.modules["syncnorm.cupy"] = syncnorm.cupy = face()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
