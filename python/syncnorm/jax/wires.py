"""Float64 vectors, with and without x64, and their sums over the ranks.

Without jax_enable_x64 JAX has no float64. A vector is then its bits, uint32 of shape (length, 2);
the vectors of all ranks are gathered, and the core adds them up.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import UnsupportedError

from .ffi import call_handler
from .layout import result
from .mesh_axes import Axes

AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None


def axis_names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """Return axis_name, which is one name, several or None, as a tuple."""
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def float64_result(length: int) -> jax.ShapeDtypeStruct:
    """Return the description of a result with this many float64 values."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return result((length,), jnp.float64)
    return result((length, 2), jnp.uint32)


def sum_over(wire: Array, axis_name: AxisName) -> Array:
    """All-reduce a wire in float64. Every rank along axis_name has to take part.

    With x64 it is `jax.lax.psum`. Without, it is `jax.lax.all_gather` and a sum in rank order.

    Args:
        wire: float64 (length,), or without x64 uint32 (length, 2).
        axis_name: The name of a mesh axis or an axis of vmap, a tuple of names, or None for a
            group of one.

    Returns:
        The sum, in the shape and dtype of wire.

    Raises:
        UnsupportedError: JAX cannot gather along the axis, which happens in a backward pass under
            vmap without x64.
    """
    names = axis_names(axis_name)
    if not names:
        return wire
    if wire.dtype == jnp.float64:
        total: Array = jax.lax.psum(wire, names)  # type: ignore[no-untyped-call]
        return total
    try:
        gathered = jax.lax.all_gather(wire, names)
    except NameError as error:  # vmap's axes are unbound in a backward pass
        raise UnsupportedError(
            f"axis_name: got {axis_name}, along which JAX cannot gather here, expected an axis of"
            " shard_map; gradients along an axis of vmap need jax_enable_x64"
        ) from error
    return _add_up(gathered, frozenset(names))


def add_up(wires: Array) -> Array:
    """Sum wires on one device, in float64 and in their order.

    Args:
        wires: Wires stacked along axis 0: float64 (ranks, length), or without x64 uint32
            (ranks, length, 2).

    Returns:
        The sum, in the shape and dtype of one wire.
    """
    return _add_up(wires, frozenset())


def _add_up(wires: Array, invariant: Axes) -> Array:
    if wires.dtype == jnp.float64:
        return wires.sum(0)
    total = {"total": result(wires.shape[1:], wires.dtype)}
    made = call_handler("add_up", {"gathered": wires}, total, invariant={"total": invariant})
    return made["total"]
