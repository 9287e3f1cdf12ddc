"""Float64 vectors, with and without x64, and their sums over the ranks.

Without jax_enable_x64 JAX has no float64 arrays. A vector is then its bits, uint32 of shape
(length, 2), and is float64 only inside of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import InvalidArgumentError, UnsupportedError

from .ffi import call_handler
from .layout import result
from .mesh_axes import varying_axes

AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None


class IndexGroups(NamedTuple):
    """Checked axis_index_groups.

    Attributes:
        group_of: The number of the group of each index.
        size: The number of indices in a group.
        axis_sizes: The sizes of the axes, which JAX does not know in a backward pass.
    """

    group_of: tuple[int, ...]
    size: int
    axis_sizes: tuple[int, ...]


def axis_names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """Return axis_name, which is one name, several or None, as a tuple."""
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)


def index_groups(
    groups: Sequence[Sequence[int]] | None, names: tuple[Hashable, ...]
) -> IndexGroups | None:
    """Check axis_index_groups.

    Raises:
        InvalidArgumentError: The groups differ in size, or an index is not in exactly one of them.
    """
    if groups is None or not names:
        return None
    axis_sizes = tuple(jax.lax.axis_size(name) for name in names)
    indices = range(math.prod(axis_sizes))
    group_of = {index: number for number, group in enumerate(groups) for index in group}
    all_indices = sorted(index for group in groups for index in group)
    if all_indices != list(indices) or len({len(group) for group in groups}) != 1:
        raise InvalidArgumentError(
            f"axis_index_groups: got {groups}, expected groups of one size, with each index from 0"
            f" to {indices[-1]} in one of them: axis_name is {names}"
        )
    return IndexGroups(tuple(group_of[index] for index in indices), len(groups[0]), axis_sizes)


def float64_result(length: int) -> jax.ShapeDtypeStruct:
    """Return the description of a result with this many float64 values."""
    if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        return result((length,), jnp.float64)
    return result((length, 2), jnp.uint32)


def sum_over(
    wire: Array,
    axis_name: AxisName,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Array:
    """All-reduce a wire in float64. Every rank along axis_name has to take part.

    Args:
        wire: float64 (length,), or without x64 uint32 (length, 2).
        axis_name: The name of a mesh axis or an axis of vmap, a tuple of names, or None for a
            group of one.
        axis_index_groups: Groups of indices along axis_name, as in `jax.lax.psum`; each has a sum
            of its own.

    Returns:
        The sum, in the shape and dtype of wire.

    Raises:
        InvalidArgumentError: axis_index_groups is not allowed.
    """
    names = axis_names(axis_name)
    return all_reduce(wire, names, index_groups(axis_index_groups, names))


def all_reduce(wire: Array, names: tuple[Hashable, ...], groups: IndexGroups | None) -> Array:
    """Do the sum of `sum_over`, with checked arguments: a backward pass cannot check them."""
    if not names:
        return wire
    with jax.enable_x64(True):
        values = _values(wire)
        total = _psum(values, names) if groups is None else _psum_in_groups(values, names, groups)
        return _like(total, wire)


def join(wire: Array, axis_name: AxisName, hash_index: int) -> Array:
    """Sum the wires of the shards of a batch to the wire of one rank that has the whole batch.

    Args:
        wire: As in `sum_over`.
        axis_name: As in `sum_over`.
        hash_index: Where the wire has its hash, which is followed by the square of the hash. The
            shards are in the same call and send the same.

    Returns:
        The wire, in its shape and dtype.
    """
    names = axis_names(axis_name)
    if not names:
        return wire
    total = all_reduce(wire, names, None)
    return as_one_rank(total, jax.lax.axis_size(names), hash_index)


def as_one_rank(total: Array, group_size: int, hash_index: int) -> Array:
    """Return the sum of wires as the wire of one rank that has all of the data.

    If the ranks were in different calls, its hash is that of none of them.

    Args:
        total: The sum, as `sum_over` returns it.
        group_size: The number of ranks.
        hash_index: As in `join`.
    """
    if group_size == 1:
        return total
    with jax.enable_x64(True):
        values = _values(total)
        place = jnp.arange(values.size)
        is_hash = (place == hash_index) | (place == hash_index + 1)
        return _like(values / jnp.where(is_hash, float(group_size), 1.0), total)


def add_up(wires: Array) -> Array:
    """Sum wires on one device, in float64 and in their order.

    Args:
        wires: Wires stacked along axis 0: float64 (ranks, length), or without x64 uint32
            (ranks, length, 2).

    Returns:
        The sum, in the shape and dtype of one wire.
    """
    if wires.dtype == jnp.float64:
        return wires.sum(0)
    total = {"total": result(wires.shape[1:], wires.dtype)}
    return call_handler("add_up", {"gathered": wires}, total)["total"]


def _values(wire: Array) -> Array:
    """Return the float64 values of a wire; only with x64."""
    if wire.dtype == jnp.float64:
        return jnp.asarray(wire)
    values: Array = jax.lax.bitcast_convert_type(wire, jnp.float64)
    return values


def _like(values: Array, wire: Array) -> Array:
    """Return the values as they are in wire: float64, or their bits."""
    if wire.dtype == jnp.float64:
        return values
    bits: Array = jax.lax.bitcast_convert_type(values, jnp.uint32)
    return bits


def _psum(values: Array, names: Iterable[Hashable]) -> Array:
    """Return the sum. JAX wants values that vary along all of the axes, or along none."""
    varying = varying_axes(values)
    for along in ([n for n in names if n not in varying], [n for n in names if n in varying]):
        if along:
            try:
                values = jax.lax.psum(values, tuple(along))  # type: ignore[no-untyped-call]
            except AssertionError as error:  # jax.lax.psum of any array fails so
                raise UnsupportedError(
                    f"axis_name: got {along}, an axis of vmap in shard_map with check_vma, along"
                    " which JAX cannot sum, expected a mesh axis; use check_vma=False"
                ) from error
    return values


def _psum_in_groups(values: Array, names: tuple[Hashable, ...], groups: IndexGroups) -> Array:
    """Return the sum over the group of this rank.

    Each group sums in a row of its own, because axis_index_groups of `jax.lax.psum` work neither
    under vmap nor in shard_map with check_vma.
    """
    index: Array | int = 0
    for name, size in zip(names, groups.axis_sizes, strict=True):
        index = index * size + jax.lax.axis_index(name)
    own = jnp.array(groups.group_of)[index]
    rows = jnp.where(jnp.arange(max(groups.group_of) + 1)[:, None] == own, values, 0)
    return _psum(rows, names)[own]
