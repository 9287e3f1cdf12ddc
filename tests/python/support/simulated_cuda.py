"""The simulated runtime under the CUDA sources of a build with SYNCNORM_SIMT, for tests in Python.

Its devices have the memory of the host, and work is done in the order of its streams.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syncnorm import _core

if TYPE_CHECKING:
    from typing_extensions import Self

_NON_BLOCKING, _RELAXED = 1, 2  # a stream's flag, a capture's mode
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Cuda:
    """The functions of the runtime by name; they raise for a status other than cudaSuccess."""

    def __init__(self) -> None:
        build = Path(_core.__file__).resolve().parents[2]
        self.library = ctypes.CDLL(str(build / "core/libsyncnorm_simt.so"))

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            status = self.library[name](*arguments)
            if status != 0:
                raise RuntimeError(f"{name} returned {status}")

        return call

    def number(self, name: str, *arguments: Any) -> int:
        """What the function writes through its last argument."""
        value = ctypes.c_int(-1)
        getattr(self, name)(*arguments, ctypes.byref(value))
        return value.value

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """What the function writes through its first argument."""
        handle = ctypes.c_void_p()
        getattr(self, name)(ctypes.byref(handle), *arguments)
        return handle


cuda = _Cuda()
# Of simt.hpp, which is C++.
_BLOCK, _UNBLOCK = (
    "_ZN4simt12block_streamEP11CUstream_st",
    "_ZN4simt14unblock_streamEP11CUstream_st",
)
_SET_DRIVER_VERSION = "_ZN4simt18set_driver_versionEi"
_CALLS = "_ZN4simt5callsESt17basic_string_viewIcSt11char_traitsIcEE"


def calls(function: str) -> int:
    """How often a function of the runtime was called since the process began."""
    count = cuda.library[_CALLS]
    count.restype = ctypes.c_int64
    name = function.encode()
    return count(ctypes.c_size_t(len(name)), ctypes.c_char_p(name))


def set_driver_version(version: int) -> None:
    """As cudaDriverGetVersion gives it; 0: no driver."""
    cuda.library[_SET_DRIVER_VERSION](version)


def device_count() -> int:
    return cuda.number("cudaGetDeviceCount")


def current_device() -> int:
    return cuda.number("cudaGetDevice")


def use_device(index: int) -> None:
    cuda.cudaSetDevice(index)


@contextmanager
def on_device(index: int) -> Iterator[None]:
    before = current_device()
    use_device(index)
    try:
        yield
    finally:
        use_device(before)


class Stream:
    """Like a cupy.cuda.Stream: equal if the pointers are; ends with the object."""

    def __init__(self, ptr: int | None = None) -> None:
        """A new stream of the current device, or the one with this pointer."""
        self._is_own = ptr is None
        if ptr is None:
            ptr = cuda.handle("cudaStreamCreateWithFlags", _NON_BLOCKING).value
        self.ptr = ptr

    def __del__(self) -> None:
        if self._is_own:
            cuda.cudaStreamDestroy(self.handle)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __enter__(self) -> Self:
        _current.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.streams.pop()

    @property
    def handle(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.ptr)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Nothing that is enqueued meanwhile is done before the end."""
        cuda.library[_BLOCK](self.handle)
        try:
            yield
        finally:
            cuda.library[_UNBLOCK](self.handle)

    def synchronize(self) -> None:
        cuda.cudaStreamSynchronize(self.handle)

    def is_capturing(self) -> bool:
        return cuda.number("cudaStreamIsCapturing", self.handle) != 0

    def begin_capture(self) -> None:
        cuda.cudaStreamBeginCapture(self.handle, _RELAXED)

    def end_capture(self) -> Graph:
        graph = ctypes.c_void_p()
        cuda.cudaStreamEndCapture(self.handle, ctypes.byref(graph))
        return Graph(graph)


class Graph:
    """What was captured, ready to be launched."""

    def __init__(self, graph: ctypes.c_void_p) -> None:
        self._executable = cuda.handle("cudaGraphInstantiate", graph, ctypes.c_ulonglong(0))
        cuda.cudaGraphDestroy(graph)

    def __del__(self) -> None:
        cuda.cudaGraphExecDestroy(self._executable)

    def launch(self, stream: Stream) -> None:
        cuda.cudaGraphLaunch(self._executable, stream.handle)


class _Current(threading.local):
    def __init__(self) -> None:
        self.streams = [DEFAULT_STREAM]


DEFAULT_STREAM = Stream(0)
_current = _Current()
_callbacks: list[Any] = []  # a graph may call them again


def current_stream() -> Stream:
    return _current.streams[-1]


def enqueue(work: Callable[[], object]) -> None:
    """Has the current stream call `work` when its turn comes, and a graph whenever it is run."""
    callback = _CALLBACK(lambda _: work())
    _callbacks.append(callback)
    cuda.cudaLaunchHostFunc(current_stream().handle, callback, None)
