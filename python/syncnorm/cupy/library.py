"""CuPy as an ArrayLibrary."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import cupy

from syncnorm import ArgumentTypeError, Communicator, DesyncError, InvalidArgumentError, _core
from syncnorm._facts import class_name
from syncnorm.arrays.library import ArrayLibrary
from syncnorm.status_word import StatusWord, explanation

from .runtime import CupyArray, Runtime, Stream

_DLPACK_HOST = (1, 3)  # pageable and pinned memory
_DLPACK_CUDA = (2, 13)  # device and managed memory


class _ControlBuffers(threading.local):
    """The control buffers of one thread, by device and stream. Threads may share a stream.

    The key is the stream object, because a pointer is no identity: a new stream may get the pointer
    of a destroyed one, and per-thread default streams have the same pointer in all threads.
    """

    def __init__(self) -> None:
        self.by_device: dict[int, WeakKeyDictionary[Stream, _core.Array]] = {}


class CupyLibrary(ArrayLibrary[CupyArray]):
    """CuPy arrays on the current device. Calls are enqueued on CuPy's current stream.

    Args:
        runtime: CuPy, or a replacement in tests.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._dtype_names: dict[Any, str] = {}
        self._control_buffers = _ControlBuffers()
        self._status_words: dict[int, StatusWord] = {}

    def as_array(self, value: Any, name: str) -> CupyArray:
        array = value if type(value) is cupy.ndarray else self._without_copy(value, name)
        device, current = array.data.device_id, self.runtime.current_device()
        if device != current:
            raise InvalidArgumentError(
                f"{name}: is on CUDA device {device}, expected the current device, {current}: call"
                f" within `with cupy.cuda.Device({device}):` if the other arrays are there too,"
                f" else copy {name} to device {current}"
            )
        return array

    def _without_copy(self, value: Any, name: str) -> CupyArray:
        """Return a subclass instance or an array of another library as a cupy.ndarray."""
        if isinstance(value, cupy.ndarray):
            return value.view(cupy.ndarray)
        device_of = getattr(value, "__dlpack_device__", None)
        if device_of is not None:
            kind, _ = device_of()
            if kind in _DLPACK_CUDA:
                return self.runtime.from_dlpack(value)
            where = (
                "host memory" if kind in _DLPACK_HOST else f"memory of DLPack device type {kind}"
            )
            raise ArgumentTypeError(
                f"{name}: got {class_name(value)} in {where}, expected an array on the current CUDA"
                " device: copy it there with cupy.asarray, or use syncnorm.numpy for arrays in host"
                " memory"
            )
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            raise ArgumentTypeError(
                f"{name}: got {class_name(value)}, expected a cupy.ndarray or another array on the"
                " current CUDA device that has __dlpack__ or __cuda_array_interface__"
            )
        array = self.runtime.from_interface(value)
        if array.data.ptr != interface["data"][0]:
            raise InvalidArgumentError(
                f"{name}: got {class_name(value)} that CuPy had to copy, expected an array on the"
                " current CUDA device; make its device the current one"
            )
        return array

    def view(
        self,
        array: CupyArray,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        name: str,  # noqa: ARG002
    ) -> _core.Array:
        dtype = self._dtype_names.get(array.dtype)
        if dtype is None:
            dtype = self._dtype_names.setdefault(array.dtype, array.dtype.name)
        memory = array.data
        return _core.Array(memory.ptr, shape, strides, dtype, "cuda", memory.device_id, owner=array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> CupyArray:
        return cupy.empty(shape, dtype)

    def assign(self, target: CupyArray, value: Any) -> None:
        self.runtime.assign(target, value)

    def add(self, target: CupyArray, value: CupyArray) -> None:
        self.runtime.add(target, value)

    def to_numpy(self, array: CupyArray) -> Any:
        """Return a copy of an array as a numpy.ndarray in host memory. Waits for the device.

        Args:
            array: A CuPy array.
        """
        return self.runtime.to_numpy(array)

    def select_device(self, local_rank: int) -> int:
        """Make the CUDA device of a process the current one, and return its index.

        Args:
            local_rank: The rank of the process on its machine. Devices are assigned round-robin.
        """
        index = local_rank % self.runtime.device_count()
        self.runtime.use_device(index)
        return index

    def placement(
        self,
        x: CupyArray,
        workspace_size: int,
        threads: int | None,  # noqa: ARG002
        comm: Communicator | None,  # noqa: ARG002
    ) -> dict[str, Any]:
        stream = self.runtime.current_stream()
        control = None
        # A graph may be replayed while calls run on the stream that captured it.
        if not stream.is_capturing():
            control = self._control_buffer(x.data.device_id, stream)
        return {
            "workspace": self._bytes_view(self.empty((workspace_size,), "uint8")),
            "control": control,
            "stream": stream.ptr,
        }

    def _control_buffer(self, device: int, stream: Stream) -> _core.Array:
        """Return the stream's control buffer: zeroed once, and left zero by every call."""
        buffers = self._control_buffers.by_device.setdefault(device, WeakKeyDictionary())
        buffer = buffers.get(stream)
        if buffer is None:
            buffer = buffers[stream] = self._bytes_view(self.runtime.zeros(_core.CONTROL_SIZE))
        return buffer

    def _bytes_view(self, memory: CupyArray) -> _core.Array:
        return self.view(memory, memory.shape, (1,), "workspace")

    def status_word(self, x: CupyArray) -> _core.Array | None:
        device = x.data.device_id
        word = self._status_words.get(device)
        if word is None:
            if self.is_capturing():  # the driver may refuse to allocate pinned memory
                return None
            memory = self.runtime.pinned_memory(4)
            # setdefault: two threads may get here at once, and have to use the same word.
            word = self._status_words.setdefault(device, StatusWord(memory.ptr, device, memory))
        if word.take():
            raise DesyncError(explanation(f"CUDA device {device}"))
        return word.array

    def is_capturing(self) -> bool:
        return self.runtime.current_stream().is_capturing()


LIBRARY = CupyLibrary(Runtime())
