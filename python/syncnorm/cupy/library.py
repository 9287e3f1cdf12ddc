"""CuPy's answers to what the adapter asks of an array library."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import cupy

from syncnorm import Communicator, DesyncError, InvalidArgumentError, _core
from syncnorm._facts import class_name
from syncnorm.arrays.library import ArrayLibrary
from syncnorm.status_word import StatusWord, explanation

from .runtime import CupyArray, Runtime, Stream


class _Controls(threading.local):
    """The control buffers of one thread, by device and stream: threads may share a stream.

    A stream is told by its object, not by its pointer: the next stream may get that of one that is
    gone, and the default stream of a thread has the same pointer in all threads.
    """

    def __init__(self) -> None:
        self.by_device: dict[int, WeakKeyDictionary[Stream, _core.Array]] = {}


class CupyLibrary(ArrayLibrary[CupyArray]):
    """Arrays on the current device, whose work is enqueued on CuPy's current stream."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._names: dict[Any, str] = {}
        self._controls = _Controls()
        self._status_words: dict[int, StatusWord] = {}

    def adopt(self, value: Any, name: str) -> CupyArray:
        array = value if type(value) is cupy.ndarray else self._adopted(value, name)
        device, current = array.data.device_id, self.runtime.current_device()
        if device != current:
            raise InvalidArgumentError(
                f"{name}: is on CUDA device {device}, expected the current device, {current}: call"
                f" within `with cupy.cuda.Device({device}):` if the other arrays are there too,"
                f" else copy {name} to device {current}"
            )
        return array

    def _adopted(self, value: Any, name: str) -> CupyArray:
        if isinstance(value, cupy.ndarray):
            return value.view(cupy.ndarray)  # without what a subclass does differently
        device_of = getattr(value, "__dlpack_device__", None)
        if device_of is not None:
            kind, _ = device_of()
            if kind in _DLPACK_CUDA:
                return self.runtime.from_dlpack(value)
            where = "the host" if kind in _DLPACK_HOST else f"DLPack's device type {kind}"
            raise TypeError(
                f"{name}: got {class_name(value)} in memory of {where}, expected an array on the"
                " current CUDA device: copy it there with cupy.asarray, or use syncnorm.numpy for"
                " arrays in the host's memory"
            )
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is None:
            raise TypeError(
                f"{name}: got {class_name(value)}, expected a cupy.ndarray or another array on the"
                " current CUDA device that has __dlpack__ or __cuda_array_interface__"
            )
        array = self.runtime.from_interface(value)
        if array.data.ptr != interface["data"][0]:
            raise InvalidArgumentError(
                f"{name}: the memory of this {class_name(value)} could not be taken as it is; make"
                " its device the current one"
            )
        return array

    def view(
        self,
        array: CupyArray,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        name: str,  # noqa: ARG002
    ) -> _core.Array:
        dtype = self._names.get(array.dtype)
        if dtype is None:
            dtype = self._names.setdefault(array.dtype, array.dtype.name)
        memory = array.data
        return _core.Array(memory.ptr, shape, strides, dtype, "cuda", memory.device_id, owner=array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> CupyArray:
        return cupy.empty(shape, dtype)

    def assign(self, target: CupyArray, value: Any) -> None:
        self.runtime.assign(target, value)

    def add(self, target: CupyArray, value: CupyArray) -> None:
        self.runtime.add(target, value)

    def to_numpy(self, array: CupyArray) -> Any:
        return self.runtime.to_numpy(array)

    def select_device(self, local_rank: int) -> int:
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
        return {
            "workspace": self._bytes(self.empty((workspace_size,), "uint8")),
            # A graph may be replayed on any stream, beside calls on the one that captured it.
            "control": None if stream.is_capturing() else self._control(x.data.device_id, stream),
            "stream": stream.ptr,
        }

    def _control(self, device: int, stream: Stream) -> _core.Array:
        """Zeroed once on the stream, and left zero by every call of the core."""
        controls = self._controls.by_device.setdefault(device, WeakKeyDictionary())
        control = controls.get(stream)
        if control is None:
            control = controls[stream] = self._bytes(self.runtime.zeros(_core.CONTROL_SIZE))
        return control

    def _bytes(self, memory: CupyArray) -> _core.Array:
        return self.view(memory, memory.shape, (1,), "workspace")

    def status_word(self, x: CupyArray) -> _core.Array | None:
        device = x.data.device_id
        word = self._status_words.get(device)
        if word is None:
            if self.is_capturing():  # where the driver may refuse to allocate
                return None
            memory = self.runtime.pinned_memory(4)
            # Of two threads that come at once the first sets the word of both.
            word = self._status_words.setdefault(device, StatusWord(memory.ptr, device, memory))
        if word.take():
            raise DesyncError(explanation(f"CUDA device {device}"))
        return word.array

    def is_capturing(self) -> bool:
        return self.runtime.current_stream().is_capturing()


_DLPACK_HOST = (1, 3)  # and what the host has pinned
_DLPACK_CUDA = (2, 13)  # and managed memory

LIBRARY = CupyLibrary(Runtime())
