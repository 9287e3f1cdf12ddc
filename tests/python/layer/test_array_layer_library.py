"""A layer leaves the values of its arrays to the library: they may be on a device."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from thread_layers import random_arrays, trained

import syncnorm.arrays
from syncnorm import numpy as bn
from syncnorm.numpy.library import NumpyLibrary


class DeviceArray(np.ndarray):
    """An array that can be looked at through its library alone, as one on a device."""

    def __array_ufunc__(self, *arguments: Any, **keywords: Any) -> Any:
        raise AssertionError(f"arithmetic outside of the library: {arguments[0]}")

    def __array_function__(self, function: Any, *arguments: Any) -> Any:
        raise AssertionError(f"a function outside of the library: {function}")

    def __setitem__(self, *arguments: Any) -> None:
        raise AssertionError("written outside of the library")

    def _refused(self, *_: Any) -> Any:
        raise AssertionError("read or copied outside of the library")

    __getitem__ = __array__ = __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refused
    __float__ = __int__ = __bool__ = __iter__ = astype = copy = fill = item = tolist = _refused


def plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, DeviceArray) else value


class DeviceLibrary(NumpyLibrary):
    """Stands for a library whose arrays NumPy cannot read."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype).view(DeviceArray)

    def as_array(self, value: Any, name: str) -> Any:
        return super().as_array(plain(value), name)

    def view(self, array: Any, *arguments: Any) -> Any:
        return super().view(plain(array), *arguments)

    def assign(self, target: Any, value: Any) -> None:
        super().assign(plain(target), plain(value))

    def add(self, target: Any, value: Any) -> None:
        super().add(plain(target), plain(value))

    def to_numpy(self, array: Any) -> Any:
        return super().to_numpy(plain(array))


class DeviceLayer(syncnorm.arrays.SyncBatchNorm[Any]):
    functions = syncnorm.arrays.Functions(DeviceLibrary())


def test_the_stand_in_refuses() -> None:
    array = DeviceLibrary().empty((3,), "float32")
    for use in (lambda: array + 1, lambda: array[0], lambda: np.zeros_like(array), array.copy):
        with pytest.raises(AssertionError):
            use()


def test_a_layer_works_through_its_library() -> None:
    x, dy, residual = random_arrays([(4, 3, 5)] * 3, 1, "float32")
    expected = trained(bn.SyncBatchNorm(3))
    layer = DeviceLayer(3)
    layer.load_state_dict(expected.state_dict())
    layers = [layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)]
    layers[-1].reset_parameters()  # the arrays of the first
    layer.load_state_dict(expected.state_dict())
    for each in (expected, *layers[:-1]):
        for _ in range(2):
            each(x, residual)
            each.backward(dy)
    y = expected.eval()(x)
    gradient = expected.weight_grad
    for each in layers[:-1]:
        np.testing.assert_array_equal(plain(each.eval()(x)), y)
        np.testing.assert_array_equal(plain(each.weight_grad), gradient)
        for name, array in expected.state_dict().items():
            np.testing.assert_array_equal(each.state_dict()[name], array)
        repr(each)
