"""What shard_map knows of arrays: the mesh axes along which they differ from device to device.

Outside of shard_map, and in one with check_vma=False, it knows of none.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

Axes = frozenset[Any]


def varying_axes(*arrays: Array | None) -> Axes:
    """The axes along which any of the arrays differs."""
    found: Axes = frozenset()
    for array in arrays:
        if array is not None:
            kind: Any = jax.typeof(array)
            # JAX 0.10 has a type for this, and before it was an attribute.
            found |= kind.mat.varying if hasattr(kind, "mat") else kind.vma
    return found


def cast(array: Array, axes: Axes) -> Array:
    """The array as one that differs along these axes too. Its gradient is summed along them."""
    missing = axes - varying_axes(array)
    if not missing:
        return array
    made: Array = jax.lax.pcast(array, tuple(missing), to="varying")
    return made


def cast_optional(array: Array | None, axes: Axes) -> Array | None:
    return None if array is None else cast(array, axes)
