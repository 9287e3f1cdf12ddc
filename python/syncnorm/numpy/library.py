"""NumPy's answers to what the adapter asks of an array library."""

from __future__ import annotations

import os
import threading
from typing import Any, TypeAlias

import numpy as np

from syncnorm import Communicator, InvalidArgumentError, _core
from syncnorm._facts import class_name, usable_cores
from syncnorm.arrays.library import ArrayLibrary

NumpyArray: TypeAlias = "np.ndarray[Any, Any]"

_ALIGNMENT = 64  # what the core asks of a workspace
_KEPT_BYTES = 1 << 24  # scratch of a larger call ends with it
_DTYPES = frozenset(
    ("float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool")
)
_DLPACK_CPU, _DLPACK_PINNED = 1, 3


class NumpyLibrary(ArrayLibrary[NumpyArray]):
    """Arrays in the memory of the host."""

    def __init__(self) -> None:
        self._names: dict[np.dtype[Any], str] = {}
        self._scratch = threading.local()

    def adopt(self, value: Any, name: str) -> NumpyArray:
        if type(value) is np.ndarray:
            return value
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{name}: got a masked array, whose mask would be lost; expected a plain array, and"
                " the mask as the argument mask"
            )
        if isinstance(value, np.ndarray):
            return np.asarray(value)
        return _foreign(value, name)

    def view(
        self,
        array: NumpyArray,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        name: str,
    ) -> _core.Array:
        dtype = self._names.get(array.dtype) or self._name_of(array.dtype, name)
        return _core.Array(array, shape, strides, dtype)

    def _name_of(self, dtype: np.dtype[Any], name: str) -> str:
        if dtype.name not in _DTYPES:
            raise InvalidArgumentError(
                f"{name}: got dtype {dtype}, expected float16, bfloat16 (of ml_dtypes), float32 or"
                " float64"
            )
        if not dtype.isnative:
            raise InvalidArgumentError(
                f"{name}: got dtype {dtype}, expected the byte order of this machine"
            )
        return self._names.setdefault(dtype, dtype.name)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NumpyArray:
        return np.empty(shape, dtype)

    def assign(self, target: NumpyArray, value: Any) -> None:
        target[...] = value

    def add(self, target: NumpyArray, value: NumpyArray) -> None:
        target += value

    def to_numpy(self, array: NumpyArray) -> NumpyArray:
        return np.array(array)

    def placement(
        self,
        x: NumpyArray,  # noqa: ARG002
        workspace_size: int,
        threads: int | None,
        comm: Communicator | None,
    ) -> dict[str, Any]:
        return {
            "workspace": self._workspace(workspace_size),
            "num_threads": _threads(comm) if threads is None else threads,
        }

    def _workspace(self, size: int) -> _core.Array:
        """Scratch of at least so many bytes, which the calls of this thread share."""
        kept: _core.Array | None = getattr(self._scratch, "view", None)
        if kept is not None and size <= self._scratch.size:
            return kept
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        view = self.view(memory[start : start + size], (size,), (1,), "workspace")
        if size <= _KEPT_BYTES:
            self._scratch.view, self._scratch.size = view, size
        return view


def _foreign(value: Any, name: str) -> NumpyArray:
    """Another library's array, in place."""
    if not hasattr(value, "__dlpack_device__"):
        hint = "; for arrays on a CUDA device use syncnorm.cupy"
        raise TypeError(
            f"{name}: got {class_name(value)}, expected a numpy.ndarray or another array in the"
            " host's memory that has __dlpack__"
            + (hint if hasattr(value, "__cuda_array_interface__") else "")
        )
    try:
        if value.__dlpack_device__()[0] in (_DLPACK_CPU, _DLPACK_PINNED):
            adopted: NumpyArray = np.from_dlpack(value)
            return adopted
    # What the exporter does not want, and what NumPy does not know, such as bfloat16.
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: got {class_name(value)}, expected an array that NumPy can take in place:"
            f" {error}"
        ) from error
    raise TypeError(
        f"{name}: got {class_name(value)} on a device, expected an array in the host's memory;"
        " for arrays on a CUDA device use syncnorm.cupy"
    )


def _cores() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return usable_cores()


_CORES = _cores()  # read once, as the runtimes of OpenMP do


def _threads(comm: Communicator | None) -> int:
    """Ranks that are threads share the cores of their process."""
    if comm is None or comm.kind != "threads":
        return _CORES
    return max(1, _CORES // comm.size)


LIBRARY = NumpyLibrary()
