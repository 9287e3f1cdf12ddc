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

_MASK = 0x7FFFFFFF  # of a layer: operators of torch and JAX take signed tags
_layers: WeakKeyDictionary[Any, itertools.count[int]] = WeakKeyDictionary()


@functools.lru_cache(maxsize=4096)
def layer_tag(layer: str | int | None) -> int:
    """Return the tag of a layer, without the number of a forward pass.

    Args:
        layer: Its name, or its number; the same on all ranks. None: it is not identified.
    """
    if layer is None:
        return 0
    number = zlib.crc32(layer.encode()) if isinstance(layer, str) else layer
    return (number & _MASK) << 32


def constant_tag(tag: int) -> int:
    """Return the tag for calls that cannot be counted: CUDA graphs, compiled code."""
    return tag | 1


def pass_number_of(tag: int) -> int:
    """Return the number of the forward pass in a tag."""
    return tag & 0xFFFFFFFF


def next_layer_number(communicator: Any) -> int:
    """Return the number of a new layer of a communicator, from 1, in order of creation."""
    return next(_layers.setdefault(communicator, itertools.count(1)))


class UnnamedLayers(dict[int, int]):
    """The tags of a group's layers without a name, by their number of creation in this process.

    A layer is identified by its place in the order of first use, and by the number of these layers
    that were created before it. Ranks may thus create layers that others do not have, and still
    notice, with the second layer at the latest, that they use layers in different orders.
    """

    def __init__(self) -> None:
        super().__init__({0: 0})  # 0: a layer that is not identified

    def __missing__(self, created: int) -> int:
        place = len(self)
        earlier = sum(other < created for other in self) - 1
        self[created] = layer_tag(place << 16 | earlier)
        return self[created]

    @staticmethod
    def text(tag: int) -> str:
        """Return how a message names the layer."""
        place, earlier = divmod(tag >> 32, 1 << 16)
        if place == 0:
            return "a layer without a name"
        text = f"layer {place} of those without a name"
        if earlier < place - 1:
            text += f", created before {place - 1 - earlier} of the earlier ones"
        return text
