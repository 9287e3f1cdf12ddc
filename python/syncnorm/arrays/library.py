"""The interface that the adapter needs from an array library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from syncnorm import Communicator, _core

A = TypeVar("A", bound=Any)  # the library's array class


class ArrayLibrary(ABC, Generic[A]):
    """An array library: how arrays are converted, allocated, copied, and where calls run.

    Its arrays have shape, strides (in bytes), dtype, itemsize and transpose. Only `assign`, `add`
    and `to_numpy` read or write the values of an array.
    """

    @abstractmethod
    def as_array(self, value: Any, name: str) -> A:
        """Return an argument as an array of this library, without a copy.

        Args:
            value: An array of this library, or of another one that shares its memory.
            name: The name of the argument, for messages.

        Raises:
            TypeError: value is no array, or would have to be copied.
            InvalidArgumentError: value is not on the current device.
        """

    @abstractmethod
    def view(
        self, array: A, shape: tuple[int, ...], strides: tuple[int, ...], name: str
    ) -> _core.Array:
        """Return a view of an array's memory for the core; the view keeps the array alive.

        Args:
            array: An array of this library.
            shape: The shape of the view.
            strides: The strides of the view, in elements.
            name: The name of the argument, for messages.

        Raises:
            InvalidArgumentError: The core has no such dtype.
        """

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> A:
        """Return a new row-major array without values, on the current device."""

    @abstractmethod
    def assign(self, target: A, value: Any) -> None:
        """Write `target[...] = value`; value is an array of this library or NumPy, or a number."""

    @abstractmethod
    def add(self, target: A, value: A) -> None:
        """Add value to target in place."""

    @abstractmethod
    def to_numpy(self, array: A) -> Any:
        """Return a copy of an array as a `numpy.ndarray`, when its values are complete.

        Args:
            array: An array of this library.
        """

    @abstractmethod
    def placement(
        self, x: A, workspace_size: int, threads: int | None, comm: Communicator | None
    ) -> dict[str, Any]:
        """Return the keyword arguments that say where the core runs a call on x.

        Args:
            x: The input of the call.
            workspace_size: The size of the workspace, in bytes.
            threads: CPU threads; None: the library's default, which may depend on comm.
            comm: The process group of the call, or None.
        """

    def select_device(self, local_rank: int) -> int | None:  # noqa: ARG002
        """Make the device of a process the current one, and return its index.

        Args:
            local_rank: The rank of the process on its machine. Devices are assigned round-robin.

        Returns:
            The index of the device, or None on the CPU, where the call does nothing.
        """
        return None

    def status_word(self, x: A) -> _core.Array | None:  # noqa: ARG002
        """Return the word that a device sets if ranks are in different calls; None on the CPU.

        Args:
            x: The input of the call.

        Raises:
            DesyncError: An earlier call on x's device has set the word.
        """
        return None

    def is_capturing(self) -> bool:
        """Return whether calls are being captured into a graph."""
        return False
