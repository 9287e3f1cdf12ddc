"""The channel axes of a layer: how many channels there are, and where they are in x."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from syncnorm._core import InvalidArgumentError

from .forms import Axes, plain_axes


def channel_shape(num_features: int | tuple[int, ...]) -> tuple[int, ...]:
    """The shape of weight, bias and running statistics."""
    given = num_features if isinstance(num_features, tuple | list) else (num_features,)
    shape = tuple(operator.index(n) for n in given)
    if not shape or min(shape) < 0:
        raise InvalidArgumentError(
            f"num_features: got {num_features}, expected a number of channels or the shape of"
            " several channel axes"
        )
    return shape


def channel_axis(
    num_features: int | tuple[int, ...], axis: int | Sequence[int] | None
) -> int | Axes:
    count = len(channel_shape(num_features))
    axes = tuple(range(1, count + 1)) if axis is None else plain_axes(axis)
    if len(axes) != count:
        raise InvalidArgumentError(
            f"axis: got {axis}, expected as many axes as num_features={num_features} has numbers"
        )
    return axes if count > 1 else axes[0]  # the functions take an int in less time
