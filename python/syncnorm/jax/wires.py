"""The vectors of float64 that travel between ranks or wait for the backward pass, and their sums.

A JAX without x64 has no float64. There such a vector is its bits, uint32 of shape (length, 2); they
are gathered as they are and added up by the core.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import UnsupportedError

from .calls import call
from .form import result
from .varying import Axes

AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None


def axes_of(axis_name: AxisName) -> tuple[Hashable, ...]:
    """The names in axis_name, which is one, several or None."""
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def doubles(length: int) -> jax.ShapeDtypeStruct:
    """What stands for a vector of this many float64 values."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return result((length,), jnp.float64)
    return result((length, 2), jnp.uint32)


def sum_over(wire: Array, axis_name: AxisName) -> Array:
    """The sum of the ranks' wires, in float64; every rank along axis_name takes part.

    axis_name: of a mesh or of vmap, several of them, or None for a group of one. With x64 it is
    jax.lax.psum; without, the wires are gathered and added in the order of the ranks.
    """
    axes = axes_of(axis_name)
    if not axes:
        return wire
    if wire.dtype == jnp.float64:
        total: Array = jax.lax.psum(wire, axes)  # type: ignore[no-untyped-call]
        return total
    try:
        gathered = jax.lax.all_gather(wire, axes)
    except NameError as error:  # in backward passes JAX has forgotten vmap's axes
        raise UnsupportedError(
            f"axis_name: JAX cannot gather along {axis_name} here, expected an axis of shard_map;"
            " along one of vmap gradients need jax_enable_x64"
        ) from error
    return _add_up(gathered, frozenset(axes))


def add_up(wires: Array) -> Array:
    """The sum of wires that are stacked along axis 0, in float64."""
    return _add_up(wires, frozenset())


def _add_up(wires: Array, alike: Axes) -> Array:
    if wires.dtype == jnp.float64:
        return wires.sum(0)
    total = result(wires.shape[1:], wires.dtype)
    return call("add_up", {"gathered": wires}, {"total": total}, alike={"total": alike})["total"]
