"""Memory that notices being written where it should not be, or not being written at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from support.dtypes import STORAGE, decode, encode, itemsize
from syncnorm import _core

GUARD = 64  # bytes of canary on either side; also the alignment
CANARY = 0xA5
UNWRITTEN = 0xFF  # a NaN in every float dtype


def dense_strides(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """Element strides of logical (N, C, *spatial) stored channels "first" or "last"."""
    order = [0, *range(2, len(shape)), 1] if layout == "last" else list(range(len(shape)))
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


class Buffer:
    """A dense array of any dtype between two rows of canaries, first filled with `fill` bytes."""

    def __init__(
        self, shape: Sequence[int], dtype: str, layout: str = "first", fill: int = UNWRITTEN
    ) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        self.strides = dense_strides(self.shape, layout)
        self._size = int(np.prod(self.shape, dtype=np.int64)) * itemsize(dtype)
        self._memory = np.full(self._size + 3 * GUARD, CANARY, np.uint8)
        misaligned = self._memory.ctypes.data % GUARD
        self._start = GUARD + (GUARD - misaligned) % GUARD
        self.bytes = self._memory[self._start : self._start + self._size]
        self.bytes[:] = fill

    @classmethod
    def of(cls, values: np.ndarray, dtype: str, layout: str = "first") -> Buffer:
        buffer = cls(np.shape(values), dtype, layout)
        buffer.storage[...] = encode(values, dtype)
        return buffer

    @property
    def storage(self) -> np.ndarray:
        """A view in the logical shape, of the dtype's storage type."""
        flat = self.bytes.view(STORAGE[self.dtype])
        size = itemsize(self.dtype)
        byte_strides = tuple(stride * size for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, byte_strides)

    @property
    def values(self) -> np.ndarray:
        return decode(np.ascontiguousarray(self.storage), self.dtype)

    @property
    def bits(self) -> bytes:
        return self.bytes.tobytes()

    @property
    def array(self) -> _core.Array:
        return self.on("cpu", 0)

    def on(self, device: str, index: int) -> _core.Array:
        """As memory of this device, for a stand-in of CUDA that runs on the host's memory."""
        address = self.bytes.ctypes.data
        return _core.Array(address, self.shape, self.strides, self.dtype, device, index)

    @property
    def untouched(self) -> bool:
        """True while every byte still has the fill of an unwritten output."""
        return bool((self.bytes == UNWRITTEN).all())

    def check_guards(self, name: str) -> None:
        before = self._memory[: self._start]
        after = self._memory[self._start + self._size :]
        if (before != CANARY).any() or (after != CANARY).any():
            raise AssertionError(f"{name}: bytes outside its {self._size} were written")


def workspace(size: int) -> Buffer:
    """Scratch with arbitrary content."""
    return Buffer((size,), "uint8", fill=CANARY)
