"""Maps an array with any channel axes to the core's (N, C, S), without a copy where possible.

The core takes dense (N, C, S) data, channels first or channels last. An array needs no copy if its
axes in memory order are reduced axes, then the channel axes, then reduced axes.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

from syncnorm._core import ArgumentTypeError, InvalidArgumentError

Axes = tuple[int, ...]


class Layout(NamedTuple):
    """The core's shape and strides for an array, and the layouts of the arrays that go with it.

    Attributes:
        core_shape: (N, C, S).
        core_strides: The strides of N, C and S, in elements.
        shape: The shape of the array.
        order: Its axes in memory order, outermost first; None: row-major.
        needs_copy: Whether the array has to be copied into this order.
        channel_axes: The channel axes, counted from 0.
        channel_shape: The shape of weight, bias and the running statistics.
        mask_shape: `shape` without the channel axes.
        mask_order: The axes of a mask in memory order; None: row-major.
    """

    core_shape: tuple[int, int, int]
    core_strides: tuple[int, int, int]
    shape: tuple[int, ...]
    order: Axes | None
    needs_copy: bool
    channel_axes: Axes
    channel_shape: tuple[int, ...]
    mask_shape: tuple[int, ...]
    mask_order: Axes | None


@functools.lru_cache(maxsize=4096)
def layout_of(
    shape: tuple[int, ...],
    byte_strides: tuple[int, ...],
    itemsize: int,
    axis: int | Axes,
    keep_batch_size: bool,
) -> Layout:
    """Return the layout of an array with these channel axes.

    Args:
        shape: The shape of the array.
        byte_strides: Its strides, in bytes.
        itemsize: The size of an element, in bytes.
        axis: The channel axis, or several.
        keep_batch_size: Whether N has to be the number of samples, which is the length of the first
            reduced axis. Otherwise N may be the product of any reduced axes.

    Raises:
        InvalidArgumentError: The array does not have these axes.
    """
    axes = normalize_axes(axis, len(shape))
    sample = next((a for a in range(len(shape)) if a not in axes), None)
    order = _memory_order(shape, byte_strides)
    core = _core_layout(shape, order, axes, sample, keep_batch_size)
    if core is None:
        order = _standard_order(shape, axes, sample)
        core = _core_layout(shape, order, axes, sample, keep_batch_size)
        assert core is not None, "the core takes every array in standard order"
    reduced = tuple(a for a in order if a not in axes)
    return Layout(
        *core,
        shape=shape,
        order=None if order == tuple(range(len(shape))) else order,
        needs_copy=not is_dense(shape, byte_strides, itemsize, order),
        channel_axes=axes,
        channel_shape=tuple(shape[a] for a in axes),
        mask_shape=tuple(n for a, n in enumerate(shape) if a not in axes),
        mask_order=None if list(reduced) == sorted(reduced) else _renumber(reduced),
    )


@functools.lru_cache(maxsize=4096)
def is_dense(
    shape: tuple[int, ...], byte_strides: tuple[int, ...], itemsize: int, order: Axes | None
) -> bool:
    """Return whether an array has no gaps and its axes are in this memory order.

    The stride of an axis of length 1 is ignored, as are all strides of an empty array.

    Args:
        shape: The shape of the array.
        byte_strides: Its strides, in bytes.
        itemsize: The size of an element, in bytes.
        order: The axes, outermost first; None: row-major.
    """
    if 0 in shape:
        return True
    step = itemsize
    for a in reversed(range(len(shape)) if order is None else order):
        if shape[a] > 1 and byte_strides[a] != step:
            return False
        step *= shape[a]
    return True


def as_axis_tuple(axis: Any) -> Axes:
    """Return one axis or several, of any integer type, as a tuple of int.

    `layout_of` caches by the axes, and there 1, True and 1.0 would be the same key.

    Raises:
        TypeError: An axis is not an integer.
    """
    if type(axis) is tuple and all(type(a) is int for a in axis):
        return axis  # the fast path
    given = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    if not all(isinstance(a, SupportsIndex) and not isinstance(a, bool) for a in given):
        raise ArgumentTypeError(
            f"axis: got {axis!r}, expected an integer or a sequence of integers"
        )
    return tuple(operator.index(a) for a in given)


def normalize_axes(axis: int | Axes, ndim: int) -> Axes:
    """Return channel axes counted from 0.

    Args:
        axis: One axis or several; negative ones count from the end.
        ndim: The number of axes of x.

    Raises:
        InvalidArgumentError: x does not have these axes, or one is given twice.
    """
    axes = (axis,) if isinstance(axis, int) else axis
    if ndim == 0:
        raise InvalidArgumentError("x: got shape (), expected at least one axis")
    if not all(-ndim <= a < ndim for a in axes):
        raise InvalidArgumentError(
            f"axis: got {axis} for an array with {ndim} axes, expected values from {-ndim} to"
            f" {ndim - 1}"
        )
    counted = tuple(a % ndim for a in axes)
    if not counted or len(set(counted)) != len(counted):
        raise InvalidArgumentError(f"axis: got {axis}, expected at least one axis, and none twice")
    return counted


def _renumber(axes: Axes) -> Axes:
    """Replace the axes by 0, 1, ..., the smallest by 0."""
    return tuple(sorted(axes).index(a) for a in axes)


def _length(shape: tuple[int, ...], axes: Iterable[int]) -> int:
    return math.prod(shape[a] for a in axes)


def _memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> Axes:
    """Return the axes by descending stride; row-major where the order makes no difference."""
    axes = range(len(shape))
    if 0 in shape:
        return tuple(axes)
    longer = [a for a in axes if shape[a] > 1]
    by_stride = sorted(longer, key=lambda a: -abs(strides[a]))
    if by_stride == longer:
        return tuple(axes)
    return (*(a for a in axes if shape[a] == 1), *by_stride)


def _standard_order(shape: tuple[int, ...], axes: Axes, sample: int | None) -> Axes:
    """Return channels last if the last channel axis is x's last axis, else channels first."""
    first = () if sample is None else (sample,)
    rest = tuple(a for a in range(len(shape)) if a not in (*first, *axes))
    channels_last = axes[-1] == len(shape) - 1
    return (*first, *rest, *axes) if channels_last else (*first, *axes, *rest)


_CoreLayout = tuple[tuple[int, int, int], tuple[int, int, int]]  # shape, strides in elements


def _channels_first(n: int, c: int, s: int) -> _CoreLayout:
    return (n, c, s), (c * s, s, 1)


def _channels_last(n: int, c: int, s: int) -> _CoreLayout:
    return (n, c, s), (s * c, 1, c)


def _core_layout(
    shape: tuple[int, ...], order: Axes, axes: Axes, sample: int | None, keep_batch_size: bool
) -> _CoreLayout | None:
    """Return the core's layout of an array that is dense in this order; None: there is none."""
    channels = _length(shape, axes)
    batch_size = 1 if sample is None else shape[sample]
    longer = [a for a in order if shape[a] != 1]
    channel_axes = [a for a in axes if shape[a] != 1]
    start = longer.index(channel_axes[0]) if channel_axes else int(longer[:1] == [sample])
    end = start + len(channel_axes)
    if longer[start:end] != channel_axes:
        return None
    before, after = longer[:start], longer[end:]
    if before in ([], [sample]) and sample not in after:
        return _channels_first(batch_size, channels, _length(shape, after))
    if not after:  # channels last, where samples and positions may be interleaved
        positions = _length(shape, (a for a in before if a != sample))
        return _channels_last(batch_size, channels, positions)
    if keep_batch_size:
        return None
    return _channels_first(_length(shape, before), channels, _length(shape, after))
