"""The mesh axes along which an array varies from device to device, as shard_map tracks them.

Outside of shard_map, and with check_vma=False, JAX tracks none.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

Axes = frozenset[Any]


def varying_axes(*arrays: Array | None) -> Axes:
    """Return the axes along which any of the arrays varies."""
    axes: Axes = frozenset()
    for array in arrays:
        if array is not None:
            kind: Any = jax.typeof(array)
            # JAX 0.10 has an object for this; before, it was an attribute.
            axes |= kind.mat.varying if hasattr(kind, "mat") else kind.vma
    return axes


def mark_varying(array: Array, axes: Axes) -> Array:
    """Mark an array as varying along these axes too. Its gradient is then summed along them."""
    missing = axes - varying_axes(array)
    if not missing:
        return array
    marked: Array = jax.lax.pcast(array, tuple(missing), to="varying")
    return marked


def mark_optional_varying(array: Array | None, axes: Axes) -> Array | None:
    return None if array is None else mark_varying(array, axes)
