"""CuPy without a driver: real cupy.ndarrays over the memory of simulated devices, the host's.

Only what asks a driver is replaced: CuPy's allocator, and the runtime of syncnorm.cupy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cupy
import ml_dtypes
import numpy as np

import syncnorm.cupy
from support import simulated_cuda as simulated
from support.adapter_driver import Adapter
from support.buffers import Buffer
from support.nccl_ranks import group
from syncnorm.cupy.library import LIBRARY, CupyLibrary
from syncnorm.cupy.runtime import Runtime

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ALIGNMENT = 512  # of what CuPy's own pool gives


class Pool:
    """Like CuPy's: what is given back serves the next array of its size on the same stream."""

    def __init__(self) -> None:
        self.free: dict[tuple[int, int, int], list[np.ndarray]] = defaultdict(list)
        self.requests = 0

    def allocate(self, size: int) -> cupy.cuda.MemoryPointer:
        self.requests += 1
        device = simulated.current_device()
        if size == 0:
            return pointer(0, 0, None, device)
        free = self.free[device, simulated.current_stream().ptr, size]
        block = _Block(free, free.pop() if free else _new_memory(size))
        return pointer(block.memory.ctypes.data, size, block, device)


class _Block:
    """Memory that is in use, until the last array over it is gone."""

    def __init__(self, home: list[np.ndarray], memory: np.ndarray) -> None:
        self._home, self.memory = home, memory

    def __del__(self) -> None:
        self._home.append(self.memory)


def _new_memory(size: int) -> np.ndarray:
    """All ones, which is NaN in every float dtype."""
    memory = np.full(size + ALIGNMENT, 0xFF, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def pointer(address: int, size: int, owner: object, device: int) -> cupy.cuda.MemoryPointer:
    return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(address, size, owner, device), 0)


def over(memory: np.ndarray, device: int | None = None) -> cupy.ndarray:
    """The memory of a NumPy array as a CuPy array, on the current device if none is named."""
    index = simulated.current_device() if device is None else device
    place = pointer(memory.ctypes.data, memory.nbytes, memory, index)
    return cupy.ndarray(memory.shape, memory.dtype, memptr=place, strides=memory.strides)


class _Memory:
    """NumPy's view of an array's memory, which does not keep it alive."""

    def __init__(self, array: cupy.ndarray) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (array.data.ptr, False),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": array.dtype.str,
        }


def host_view(array: cupy.ndarray) -> np.ndarray:
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    return np.asarray(_Memory(array)).view(array.dtype)


class PinnedMemory:
    def __init__(self, size: int) -> None:
        self.memory = np.full(size, 0xFF, np.uint8)
        self.ptr = self.memory.ctypes.data


class HostRuntime(Runtime):
    """In place of CuPy's: the simulated devices, and NumPy for fills and copies."""

    def device_count(self) -> int:
        return simulated.device_count()

    def current_device(self) -> int:
        return simulated.current_device()

    def use_device(self, index: int) -> None:
        simulated.use_device(index)

    def current_stream(self) -> simulated.Stream:
        return simulated.current_stream()

    def pinned_memory(self, size: int) -> PinnedMemory:
        return PinnedMemory(size)

    def zeros(self, size: int) -> cupy.ndarray:
        array = cupy.empty(size, "uint8")
        self.assign(array, 0)
        return array

    def assign(self, target: cupy.ndarray, value: Any) -> None:
        written = host_view(target)
        read = host_view(value) if isinstance(value, cupy.ndarray) else np.array(value)
        simulated.enqueue(lambda: np.copyto(written, read, casting="unsafe"))

    def add(self, target: cupy.ndarray, value: cupy.ndarray) -> None:
        written, read = host_view(target), host_view(value)
        simulated.enqueue(lambda: np.add(written, read, out=written, casting="unsafe"))

    def to_numpy(self, array: cupy.ndarray) -> np.ndarray:
        with simulated.on_device(array.data.device_id):
            simulated.cuda.cudaDeviceSynchronize()
        return host_view(array).copy()

    def from_dlpack(self, value: Any) -> cupy.ndarray:
        return over(value.memory)

    def from_interface(self, value: Any) -> cupy.ndarray:
        return over(value.memory)


@contextmanager
def cupy_on_host() -> Iterator[Pool]:
    """CuPy's arrays, and syncnorm.cupy as if it had just been imported, without a driver."""
    pool, state = Pool(), dict(vars(LIBRARY))
    usual = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(pool.allocate)
    vars(LIBRARY).update(vars(CupyLibrary(HostRuntime())))
    try:
        yield pool
    finally:
        vars(LIBRARY).update(state)
        cupy.cuda.set_allocator(usual)


def over_buffer(buffer: Buffer) -> cupy.ndarray:
    storage = buffer.storage
    return over(storage.view(BFLOAT16) if buffer.dtype == "bfloat16" else storage)


def array(values: Any, dtype: Any = "float32") -> cupy.ndarray:
    """A new row-major array of CuPy's pool on the current device."""
    made = cupy.empty(np.shape(values), dtype)
    LIBRARY.assign(made, values)
    return made


def arrays(shape: Sequence[int], count: int, dtype: Any = "float32") -> list[cupy.ndarray]:
    """Arrays of random values."""
    random = np.random.default_rng(0)
    return [array(random.standard_normal(shape), dtype) for _ in range(count)]


ADAPTER = Adapter(
    functions=syncnorm.cupy,
    array=over_buffer,
    read=syncnorm.cupy.to_numpy,
    group=group,
    on_rank=simulated.on_device,
)
