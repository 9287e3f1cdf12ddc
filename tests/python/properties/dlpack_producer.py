"""A producer of DLPack tensors by the C exchange table, which may describe memory wrongly."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ExchangeTable(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("prev_api", ctypes.c_void_p),
        ("allocator", ctypes.c_void_p),
        ("from_object", ctypes.c_void_p),
        ("to_object", ctypes.c_void_p),
        ("tensor_from_object", ctypes.c_void_p),
        ("current_work_stream", ctypes.c_void_p),
    )


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_DLTensor))
def _tensor_from_object(producer: Any, out: Any) -> int:
    for name, value in producer.fields().items():
        setattr(out.contents, name, value)
    return 0


def _capsule() -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = (
        ctypes.py_object,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p],
    )
    return new(ctypes.addressof(_TABLE), b"dlpack_exchange_api", None)


_TABLE = _ExchangeTable(
    major=1, minor=3, tensor_from_object=ctypes.cast(_tensor_from_object, ctypes.c_void_p)
)


@dataclass
class Producer:
    """Fields of a DLTensor, which nothing checks.

    Attributes:
        ndim: None: the length of shape.
    """

    data: int
    shape: Sequence[int] | None
    strides: Sequence[int] | None
    dtype: tuple[int, int, int] = (2, 32, 1)  # code, bits, lanes
    device: tuple[int, int] = (1, 0)  # type, id
    ndim: int | None = None
    byte_offset: int = 0

    __dlpack_c_exchange_api__ = _capsule()

    def fields(self) -> dict[str, Any]:
        # They have to live as long as the tensor: until the call of the binding has returned.
        self._arrays = [
            None if values is None else (ctypes.c_int64 * len(values))(*values)
            for values in (self.shape, self.strides)
        ]
        shape, strides = (
            None if array is None else ctypes.cast(array, ctypes.POINTER(ctypes.c_int64))
            for array in self._arrays
        )
        return {
            "data": self.data or None,
            "device_type": self.device[0],
            "device_id": self.device[1],
            "ndim": len(self.shape or ()) if self.ndim is None else self.ndim,
            "code": self.dtype[0],
            "bits": self.dtype[1],
            "lanes": self.dtype[2],
            "shape": shape,
            "strides": strides,
            "byte_offset": self.byte_offset,
        }
