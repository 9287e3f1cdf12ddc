"""What the adapter asks of an array library. NumPy and CuPy answer in their own folders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from syncnorm import Communicator, _core

A = TypeVar("A", bound=Any)  # the library's array class


class ArrayLibrary(ABC, Generic[A]):
    """One array library. Its arrays have shape, strides (in bytes), dtype, itemsize and transpose.

    Nothing but `assign` and `add` reads or writes the values of an array.
    """

    @abstractmethod
    def adopt(self, value: Any, name: str) -> A:
        """An argument as an array of this library: itself, or another library's in place.

        Raises TypeError, naming the argument and what to do, for what is no array of this library
        and cannot become one without a copy, such as an array in other memory;
        InvalidArgumentError for an array that is not on the current device.
        """

    @abstractmethod
    def view(
        self, array: A, shape: tuple[int, ...], strides: tuple[int, ...], name: str
    ) -> _core.Array:
        """The memory of an array in another shape, with strides in elements, as the core takes it.

        Keeps the array alive. Raises InvalidArgumentError for a dtype that the core does not know.
        """

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> A:
        """A new array, row-major, where arrays are made now (CuPy: the current device)."""

    @abstractmethod
    def assign(self, target: A, value: Any) -> None:
        """target[...] = value: an array of this library, of NumPy's, or a number."""

    @abstractmethod
    def add(self, target: A, value: A) -> None:
        """target += value."""

    @abstractmethod
    def to_numpy(self, array: A) -> Any:
        """The values as a NumPy array of its own, in the host's memory. Waits for the device."""

    @abstractmethod
    def placement(
        self, x: A, workspace_size: int, threads: int | None, comm: Communicator | None
    ) -> dict[str, Any]:
        """The keyword arguments of the core's functions that say where a call on x runs.

        threads: on the CPU; None for the library's choice, which may look at the kind of comm.
        """

    def select_device(self, local_rank: int) -> int | None:  # noqa: ARG002
        """Make the device of a process current, and return its index; None on the CPU.

        local_rank: the number of the process on its machine; devices are given out in turn.
        """
        return None

    def status_word(self, x: A) -> _core.Array | None:  # noqa: ARG002
        """Where a device says that ranks disagree; None on the CPU, where the call itself raises.

        Raises DesyncError if an earlier call on x's device has said so.
        """
        return None

    def is_capturing(self) -> bool:
        """Whether calls now become part of a graph, to be replayed later."""
        return False
