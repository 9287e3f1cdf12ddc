"""A producer of DLPack tensors by the C exchange table, which may describe memory wrongly."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from support.dlpack_exchange import EXCHANGE_API


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

    __dlpack_c_exchange_api__ = EXCHANGE_API

    def fields(self) -> dict[str, Any]:
        # They have to live as long as the tensor: until the call of the binding has returned.
        self._arrays = [
            None if values is None else (ctypes.c_int64 * len(values))(*values)
            for values in (self.shape, self.strides)
        ]
        shape, strides = (
            None if array is None else ctypes.addressof(array) for array in self._arrays
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
