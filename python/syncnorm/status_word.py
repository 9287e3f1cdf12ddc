"""Detect on the host that a CUDA device found ranks in different calls."""

from __future__ import annotations

import ctypes

from syncnorm._core import Array


class StatusWord:
    """An int32 in pinned host memory that a device sets if the ranks of a group disagree.

    Kernels write it through unified addressing, so that reading it needs no synchronization.

    Attributes:
        array: The word as an Array on the device, for the argument `status` of the core.
    """

    def __init__(self, pointer: int, device_index: int, memory: object) -> None:
        """Clear the word.

        Args:
            pointer: Address of 4 bytes of pinned host memory.
            device_index: CUDA device index.
            memory: Owner of the memory; array keeps it alive.
        """
        self._value = ctypes.c_int32.from_address(pointer)
        self._value.value = 0
        self.array = Array(pointer, (1,), (1,), "int32", "cuda", device_index, owner=memory)

    def take(self) -> bool:
        """Return whether the word was set, and clear it."""
        was_set = self._value.value != 0
        if was_set:
            self._value.value = 0
        return was_set


def explanation(device: object) -> str:
    """Return the message of the DesyncError for a word that `device` set."""
    return (
        f"the ranks of a group were in different calls some calls ago on {device}: got wires with"
        " different hashes, expected every rank to make the same calls in the same order with the"
        " same channels and options. Since then the outputs are NaN, and the running statistics"
        " are unchanged"
    )
