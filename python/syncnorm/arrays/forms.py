"""How an array with any channel axes lies in memory, and how the core can take it.

The core knows (N, C, S), dense, with the channels second (channels first) or innermost (channels
last). Any array whose axes, in the order in which they lie in memory, are some that are reduced,
then the channel axes, then others that are reduced, is one of these without a copy.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

from syncnorm._core import InvalidArgumentError

Axes = tuple[int, ...]


class Form(NamedTuple):
    """What the core is told of an array, and how further arrays of its shape are made."""

    core_shape: tuple[int, int, int]  # N, C, S
    core_strides: tuple[int, int, int]  # in elements
    shape: tuple[int, ...]
    order: Axes | None  # its axes from the outermost to the innermost in memory; None: row-major
    needs_copy: bool  # the array itself does not lie so
    channel_axes: Axes
    channels: tuple[int, ...]  # the shape of weight, bias and running statistics
    vector_shape: tuple[int]  # the same as the core takes them
    mask_shape: tuple[int, ...]  # shape without the channel axes
    mask_order: Axes | None  # as order, for an array without the channel axes


@functools.lru_cache(maxsize=4096)
def form_of(
    shape: tuple[int, ...],
    byte_strides: tuple[int, ...],
    itemsize: int,
    axis: int | Axes,
    counts_samples: bool,
) -> Form:
    """How the core takes an array with these channel axes.

    counts_samples: whether N must be the number of samples, the length of the first axis that is no
    channel axis; else N may be any product. Raises InvalidArgumentError for axes that x has not.
    """
    axes = normalized_axes(axis, len(shape))
    sample = next((a for a in range(len(shape)) if a not in axes), None)
    memory = _memory_order(shape, byte_strides)
    for order in (memory, _standard_order(shape, axes, sample)):
        core = _as_core(shape, order, axes, sample, counts_samples)
        if core is not None:
            break
    else:
        raise AssertionError("the standard order always fits the core")
    reduced = tuple(a for a in order if a not in axes)
    return Form(
        *core,
        shape=shape,
        order=None if order == tuple(range(len(shape))) else order,
        needs_copy=not is_dense(shape, byte_strides, itemsize, order),
        channel_axes=axes,
        channels=tuple(shape[a] for a in axes),
        vector_shape=(_extent(shape, axes),),
        mask_shape=tuple(n for a, n in enumerate(shape) if a not in axes),
        mask_order=None if list(reduced) == sorted(reduced) else _ranks(reduced),
    )


@functools.lru_cache(maxsize=4096)
def is_dense(
    shape: tuple[int, ...], byte_strides: tuple[int, ...], itemsize: int, order: Axes | None
) -> bool:
    """Whether an array lies without gaps, its axes in this order; None: row-major.

    Strides of axes with one element say nothing, and none do where there is no element.
    """
    if 0 in shape:
        return True
    step = itemsize
    for a in reversed(range(len(shape)) if order is None else order):
        if shape[a] > 1 and byte_strides[a] != step:
            return False
        step *= shape[a]
    return True


def plain_axes(axis: Any) -> Axes:
    """One axis or several, of any kind of integer, as a tuple of int, for form_of to remember."""
    if type(axis) is tuple and all(type(a) is int for a in axis):
        return axis  # in a tenth of the time
    given = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    if not all(isinstance(a, SupportsIndex) and not isinstance(a, bool) for a in given):
        raise TypeError(f"axis: got {axis!r}, expected an integer or a sequence of integers")
    return tuple(operator.index(a) for a in given)


def normalized_axes(axis: int | Axes, ndim: int) -> Axes:
    """Channel axes counted from 0. Raises InvalidArgumentError for others than x has."""
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
        raise InvalidArgumentError(f"axis: got {axis}, expected different axes, at least one")
    return counted


def _ranks(axes: Axes) -> Axes:
    """These axes numbered anew, in the order of their own sizes."""
    return tuple(sorted(axes).index(a) for a in axes)


def _extent(shape: tuple[int, ...], axes: Iterable[int]) -> int:
    return math.prod(shape[a] for a in axes)


def _memory_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> Axes:
    """The axes from the longest stride to the shortest; row-major where it makes no difference."""
    axes = range(len(shape))
    if 0 in shape:
        return tuple(axes)
    long = [a for a in axes if shape[a] > 1]
    by_stride = sorted(long, key=lambda a: -abs(strides[a]))
    if by_stride == long:
        return tuple(axes)
    return (*(a for a in axes if shape[a] == 1), *by_stride)


def _standard_order(shape: tuple[int, ...], axes: Axes, sample: int | None) -> Axes:
    """The samples first; the channels last where they are in x, else after the samples."""
    first = () if sample is None else (sample,)
    rest = tuple(a for a in range(len(shape)) if a not in (*first, *axes))
    innermost = axes[-1] == len(shape) - 1
    return (*first, *rest, *axes) if innermost else (*first, *axes, *rest)


Core = tuple[tuple[int, int, int], tuple[int, int, int]]  # shape and strides


def _channels_first(n: int, c: int, s: int) -> Core:
    return (n, c, s), (c * s, s, 1)


def _channels_last(n: int, c: int, s: int) -> Core:
    return (n, c, s), (s * c, 1, c)


def _as_core(
    shape: tuple[int, ...], order: Axes, axes: Axes, sample: int | None, counts_samples: bool
) -> Core | None:
    """Shape and strides for the core of an array that is dense in this order, if it fits."""
    channels = _extent(shape, axes)
    samples = 1 if sample is None else shape[sample]
    long = [a for a in order if shape[a] != 1]
    of_channels = [a for a in axes if shape[a] != 1]
    start = long.index(of_channels[0]) if of_channels else int(long[:1] == [sample])
    end = start + len(of_channels)
    if long[start:end] != of_channels:
        return None
    before, after = long[:start], long[end:]
    if before in ([], [sample]) and sample not in after:
        return _channels_first(samples, channels, _extent(shape, after))
    if not after:  # how samples and positions lie among each other makes no difference here
        return _channels_last(samples, channels, _extent(shape, (a for a in before if a != sample)))
    if counts_samples:
        return None
    return _channels_first(_extent(shape, before), channels, _extent(shape, after))
