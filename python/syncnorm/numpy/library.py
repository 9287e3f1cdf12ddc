"""NumPy as an ArrayLibrary."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np

from syncnorm import ArgumentTypeError, Communicator, InvalidArgumentError, _core
from syncnorm._facts import class_name, usable_cores
from syncnorm.arrays.library import ArrayLibrary

NumpyArray: TypeAlias = "np.ndarray[Any, Any]"

_DTYPES = frozenset(
    ("float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool")
)
_DLPACK_CPU, _DLPACK_PINNED = 1, 3


class NumpyLibrary(ArrayLibrary[NumpyArray]):
    """NumPy arrays in host memory."""

    def __init__(self) -> None:
        self._dtype_names: dict[np.dtype[Any], str] = {}

    def as_array(self, value: Any, name: str) -> NumpyArray:
        if type(value) is np.ndarray:
            return value
        if isinstance(value, np.ma.MaskedArray):
            raise ArgumentTypeError(
                f"{name}: got a masked array, expected a plain array, because its mask would be"
                " ignored; to leave out positions of x, pass the argument mask"
            )
        if isinstance(value, np.ndarray):
            return np.asarray(value)
        return _from_dlpack(value, name)

    def view(
        self,
        array: NumpyArray,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        name: str,
    ) -> _core.Array:
        dtype = self._dtype_names.get(array.dtype) or self._dtype_name(array.dtype, name)
        return _core.Array(array, shape, strides, dtype)

    def _dtype_name(self, dtype: np.dtype[Any], name: str) -> str:
        if dtype.name not in _DTYPES:
            raise InvalidArgumentError(
                f"{name}: got dtype {dtype}, expected float16, bfloat16 (of ml_dtypes), float32 or"
                " float64"
            )
        if not dtype.isnative:
            raise InvalidArgumentError(
                f"{name}: got dtype {dtype}, expected the byte order of this machine"
            )
        return self._dtype_names.setdefault(dtype, dtype.name)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
        return np.empty(shape, dtype)

    def assign(self, target: NumpyArray, value: Any) -> None:
        target[...] = value

    def add(self, target: NumpyArray, value: NumpyArray) -> None:
        target += value

    def to_numpy(self, array: NumpyArray) -> NumpyArray:
        """Return a copy of an array, as `syncnorm.cupy.to_numpy` does.

        Args:
            array: A NumPy array.
        """
        return np.array(array)

    def placement(
        self,
        x: NumpyArray,  # noqa: ARG002
        workspace_size: int,  # noqa: ARG002
        threads: int | None,
        comm: Communicator | None,
    ) -> dict[str, Any]:
        return {
            # The core's bindings allocate one for each call. A cached one would be shared with the
            # calls that a callback of this call makes.
            "workspace": None,
            "num_threads": _default_threads(comm) if threads is None else threads,
        }


def _from_dlpack(value: Any, name: str) -> NumpyArray:
    """Return an array of another library as a NumPy array over the same memory."""
    if not hasattr(value, "__dlpack_device__"):
        hint = "; for arrays on a CUDA device use syncnorm.cupy"
        raise ArgumentTypeError(
            f"{name}: got {class_name(value)}, expected a numpy.ndarray or another array in host"
            " memory that has __dlpack__"
            + (hint if hasattr(value, "__cuda_array_interface__") else "")
        )
    try:
        if value.__dlpack_device__()[0] in (_DLPACK_CPU, _DLPACK_PINNED):
            array: NumpyArray = np.from_dlpack(value)
            return array
    # The exporter refuses, or NumPy does not have the dtype, such as bfloat16.
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"{name}: got {class_name(value)}, expected an array that NumPy can use without a copy:"
            f" {error}"
        ) from error
    raise ArgumentTypeError(
        f"{name}: got {class_name(value)} on a device, expected an array in host memory;"
        " for arrays on a CUDA device use syncnorm.cupy"
    )


def _default_cores() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return usable_cores()


_CORES = _default_cores()  # read once at import, as OpenMP runtimes do


def _default_threads(comm: Communicator | None) -> int:
    """Return the cores of the process, divided among ranks that are threads."""
    if comm is None or comm.kind != "threads":
        return _CORES
    return max(1, _CORES // comm.size)


LIBRARY = NumpyLibrary()
