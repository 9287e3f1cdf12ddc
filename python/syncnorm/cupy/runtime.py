"""All calls to the CUDA driver and all work that CuPy itself enqueues: fills and copies."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import cupy

CupyArray: TypeAlias = "cupy.ndarray"


class Stream(Protocol):
    """The used part of cupy.cuda.Stream."""

    ptr: int

    def is_capturing(self) -> bool: ...


class Memory(Protocol):
    """The used part of cupy.cuda.PinnedMemoryPointer."""

    ptr: int


class Runtime:
    """CuPy's driver calls. Tests without a driver replace this class and CuPy's allocator.

    Only to_numpy waits for a device.
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
        """Return the stream object that was made current, which lives as long as the stream."""
        stream: Stream = cupy.cuda.get_current_stream()
        return stream

    def pinned_memory(self, size: int) -> Memory:
        """Allocate `size` bytes of pinned host memory."""
        memory: Memory = cupy.cuda.alloc_pinned_memory(size)
        return memory

    def zeros(self, size: int) -> CupyArray:
        """Return `size` zeroed bytes on the current device."""
        return cupy.zeros(size, "uint8")

    def assign(self, target: CupyArray, value: Any) -> None:
        no_upload = isinstance(value, cupy.ndarray | int | float)
        target[...] = value if no_upload else cupy.asarray(value)

    def add(self, target: CupyArray, value: CupyArray) -> None:
        target += value

    def to_numpy(self, array: CupyArray) -> Any:
        return cupy.asnumpy(array)

    def from_dlpack(self, value: Any) -> CupyArray:
        """Return an array over value's memory. The current stream waits for value's stream."""
        return cupy.from_dlpack(value)

    def from_interface(self, value: Any) -> CupyArray:
        """Return an array over the memory of an object with __cuda_array_interface__.

        CuPy copies it if it is on another device. If the interface names a stream, CuPy makes the
        host wait for it, unless CUPY_CUDA_ARRAY_INTERFACE_SYNC=0.
        """
        return cupy.asarray(value)
