"""Tags, by which the ranks of a group notice that they are in different calls.

The high 32 bits of a tag identify the layer, the low 32 bits the forward pass. Where the low bits
are 0, a communicator adds its count of forward passes.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from typing import Any
from weakref import WeakKeyDictionary


class _Process:
    """The key of layers that are created without a group."""


_PROCESS = _Process()
_layers: WeakKeyDictionary[Any, itertools.count[int]] = WeakKeyDictionary()


def next_layer_number(group: Any) -> int:
    """Return the number of a new layer among those of a group, from 1, in order of creation.

    Args:
        group: A communicator or another object that supports weak references; None: this process.
    """
    numbers = _layers.setdefault(_PROCESS if group is None else group, itertools.count(1))
    return next(numbers)


@functools.lru_cache(maxsize=4096)
def layer_tag(layer: str | int | None) -> int:
    """Return the tag of a layer, without the number of a forward pass.

    Args:
        layer: Its name, or its number; the same on all ranks. None: it is not identified.
    """
    if layer is None:
        return 0
    number = zlib.crc32(layer.encode()) if isinstance(layer, str) else layer
    return (number & 0x7FFFFFFF) << 32  # operators of torch and JAX take signed integers


def constant_tag(tag: int) -> int:
    """Return the tag for calls that cannot be counted: CUDA graphs, compiled code."""
    return tag | 1


def layer_number_of(tag: int) -> int:
    """Return the number of the layer in a tag, for a layer without a name; 0: none."""
    return tag >> 32


def pass_number_of(tag: int) -> int:
    """Return the number of the forward pass in a tag."""
    return tag & 0xFFFFFFFF
