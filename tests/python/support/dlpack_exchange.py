"""DLPack's C exchange table, for producers that describe their memory as a test asks."""

from __future__ import annotations

import ctypes
from typing import Any


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


class _Table(ctypes.Structure):
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


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Tensor))
def _tensor_from_object(producer: Any, tensor: Any) -> int:
    for name, value in producer.fields().items():
        setattr(tensor.contents, name, value)
    return 0


_TABLE = _Table(major=1, tensor_from_object=ctypes.cast(_tensor_from_object, ctypes.c_void_p).value)
_NAME = b"dlpack_exchange_api"  # the capsule points to it
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

# The __dlpack_c_exchange_api__ of classes whose `fields()` returns the fields of the tensor.
EXCHANGE_API: Any = _new_capsule(ctypes.addressof(_TABLE), _NAME, None)
