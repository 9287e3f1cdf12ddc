"""Checks of a layer's channel arguments, num_features and axis."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from syncnorm._core import InvalidArgumentError

from .layout import Axes, as_axis_tuple


def channel_shape(num_features: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of weight, bias and the running statistics.

    Args:
        num_features: The number of channels, or the length of each channel axis.

    Raises:
        InvalidArgumentError: There is no channel axis, or a length is negative.
        TypeError: A length is not an integer.
    """
    lengths = num_features if isinstance(num_features, tuple | list) else (num_features,)
    shape = tuple(operator.index(n) for n in lengths)
    if not shape or min(shape) < 0:
        raise InvalidArgumentError(
            f"num_features: got {num_features}, expected the number of channels, or a tuple with"
            " the length of each channel axis"
        )
    return shape


def channel_axis(
    num_features: int | tuple[int, ...], axis: int | Sequence[int] | None
) -> int | Axes:
    """Return the channel axis of x, or a tuple if num_features has several lengths.

    Args:
        num_features: As in `channel_shape`.
        axis: The layer's argument; None: 1, or 1, 2, ... for several lengths.

    Raises:
        InvalidArgumentError: axis and num_features have different lengths.
        TypeError: An axis is not an integer.
    """
    count = len(channel_shape(num_features))
    axes = tuple(range(1, count + 1)) if axis is None else as_axis_tuple(axis)
    if len(axes) != count:
        raise InvalidArgumentError(
            f"axis: got {axis}, expected as many axes as num_features={num_features} has lengths:"
            f" {count}"
        )
    return axes if count > 1 else axes[0]  # an int is the fast path of Operands.from_x
