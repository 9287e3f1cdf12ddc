"""How a device says, some calls later, that the ranks of a group were in different calls."""

from __future__ import annotations

import ctypes

from syncnorm._core import Array


class StatusWord:
    """An integer of the host that a device sets where the ranks of a group disagree.

    It is in pinned memory, which kernels reach under unified addressing: to look at it takes no
    synchronization.
    """

    def __init__(self, pointer: int, device_index: int, memory: object) -> None:
        """pointer: to 4 bytes of pinned `memory`, which is kept as long as the word."""
        self._value = ctypes.c_int32.from_address(pointer)
        self._value.value = 0
        self.array = Array(pointer, (1,), (1,), "int32", "cuda", device_index, owner=memory)

    def take(self) -> bool:
        """Whether it was set; it is clear afterwards."""
        was_set = self._value.value != 0
        if was_set:
            self._value.value = 0
        return was_set


def explanation(device: object) -> str:
    """The text of the DesyncError for a word that was set."""
    return (
        f"the ranks of a group were in different calls some calls ago on {device}: got wires with"
        " different hashes, expected every rank to make the same calls in the same order with the"
        " same channels and options. The outputs since then are NaN, the running statistics were"
        " not touched"
    )
