"""What the adapter asks of the driver, and all that CuPy itself enqueues: fills and copies."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import cupy

CupyArray: TypeAlias = "cupy.ndarray"


class Stream(Protocol):
    """What is used of a cupy.cuda.Stream."""

    ptr: int

    def is_capturing(self) -> bool: ...


class Memory(Protocol):
    """What is used of a cupy.cuda.PinnedMemoryPointer."""

    ptr: int


class Runtime:
    """CuPy's own. Tests without a driver replace it, and the allocator of CuPy.

    Nothing here waits for a device, but for to_numpy.
    """

    def device_count(self) -> int:
        count: int = cupy.cuda.runtime.getDeviceCount()
        return count

    def current_device(self) -> int:
        index: int = cupy.cuda.runtime.getDevice()
        return index

    def use_device(self, index: int) -> None:
        cupy.cuda.Device(index).use()

    def current_stream(self) -> Stream:
        """The object that was made current: it lives as long as the stream."""
        stream: Stream = cupy.cuda.get_current_stream()
        return stream

    def pinned_memory(self, size: int) -> Memory:
        memory: Memory = cupy.cuda.alloc_pinned_memory(size)
        return memory

    def zeros(self, size: int) -> CupyArray:
        """So many bytes."""
        return cupy.zeros(size, "uint8")

    def assign(self, target: CupyArray, value: Any) -> None:
        in_place = isinstance(value, cupy.ndarray | int | float)
        target[...] = value if in_place else cupy.asarray(value)

    def add(self, target: CupyArray, value: CupyArray) -> None:
        target += value

    def to_numpy(self, array: CupyArray) -> Any:
        return cupy.asnumpy(array)

    def from_dlpack(self, value: Any) -> CupyArray:
        """The current stream waits for the work that `value` waits for."""
        return cupy.from_dlpack(value)

    def from_interface(self, value: Any) -> CupyArray:
        """An object with __cuda_array_interface__; it may have been copied to the current device.

        Where the interface names a stream, CuPy waits for it (CUPY_CUDA_ARRAY_INTERFACE_SYNC).
        """
        return cupy.asarray(value)
