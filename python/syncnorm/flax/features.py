"""Flax's arguments of a normalization as those of `syncnorm.jax.batch_norm`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import InvalidArgumentError
from syncnorm.jax import RunningStatistics, batch_norm


class Statistics(NamedTuple):
    """Running mean and variance, in the shape of the features."""

    mean: Array
    var: Array


class Features(NamedTuple):
    """The feature axes of an array, of which batch_norm takes one.

    Attributes:
        axes: In ascending order, counted from 0.
        shape: The sizes of these axes.
        rank: The number of axes of x.
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: Any) -> Features:
        """Return the feature axes of an array.

        Args:
            shape: The shape of x.
            axis: A feature axis, or several.
        """
        rank = len(shape)
        given = tuple(axis) if isinstance(axis, Iterable) else (axis,)
        if not given or not all(-rank <= one < rank for one in given):
            raise InvalidArgumentError(
                f"axis: got {axis}, expected one or more of the {rank} axes of x, which has shape"
                f" {shape}"
            )
        axes = tuple(sorted({one % rank for one in given}))
        return cls(axes, tuple(shape[one] for one in axes), rank)

    @property
    def position(self) -> int:
        """The axis of the merged features: where they are, or the last if others are between."""
        adjacent = self.axes[-1] - self.axes[0] == len(self.axes) - 1
        return self.axes[0] if adjacent else self.rank - len(self.axes)

    def merge(self, array: Array) -> Array:
        """Merge the feature axes of an array with the rank of x to one."""
        last = self.position + len(self.axes)
        moved = jnp.moveaxis(array, self.axes, tuple(range(self.position, last)))
        size = math.prod(moved.shape[self.position : last])
        return moved.reshape(*moved.shape[: self.position], size, *moved.shape[last:])

    def split(self, array: Array) -> Array:
        """Undo merge for an array with the size of x."""
        after = array.shape[self.position + 1 :]
        split = array.reshape(*array.shape[: self.position], *self.shape, *after)
        places = tuple(range(self.position, self.position + len(self.axes)))
        return jnp.moveaxis(split, places, self.axes)


def is_complex(x: Any, dtype: Any) -> bool:
    """Return whether the input or the dtype of the result is complex, which the core has not."""
    return any(
        jnp.issubdtype(one, jnp.complexfloating) for one in (jnp.result_type(x), dtype or "float32")
    )


def normalize(
    x: Array,
    features: Features,
    statistics: Statistics,
    scale: Array | None,
    bias: Array | None,
    *,
    dtype: Any,
    use_running_average: bool,
    momentum: float,
    epsilon: float,
    axis_name: Any,
    axis_index_groups: Any,
    mask: Any,
    name: str | None = None,
) -> tuple[Array, Statistics]:
    """Normalize x as Flax's layers do.

    Args:
        x: The input.
        features: Its feature axes.
        statistics: The running statistics.
        scale: In the shape of the features, or None.
        bias: As scale.
        dtype: The dtype of the result.
        use_running_average: Whether to use the running statistics.
        momentum: The weight of the old running statistics.
        epsilon: Added to the variance.
        axis_name: As in Flax, or a tuple of names.
        axis_index_groups: As in Flax.
        mask: Which positions count; broadcast to the shape of x. None: all.
        name: The name of the layer.

    Returns:
        The result, and the new running statistics.
    """
    # float32 input with a bfloat16 result is normalized in float32, as in Flax.
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    computed = jnp.promote_types(x.dtype, dtype) if is_float else jnp.dtype(dtype)
    vector: Any = functools.partial(_vector, wide=computed == jnp.float64)
    layer: Any = functools.partial(
        batch_norm,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        training=not use_running_average,
        momentum=1 - momentum,
        eps=epsilon,
        variance_factor="biased",
        name=name,
    )
    merged = features.merge(x.astype(computed))
    running = RunningStatistics(vector(statistics.mean), vector(statistics.var))
    if use_running_average:
        mask = None
    if mask is not None:
        mask = jnp.asarray(mask, bool)
        mask = mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)
        if any(mask.shape[axis] != 1 for axis in features.axes):
            layer = functools.partial(_per_feature, layer)
            mask = jnp.broadcast_to(mask, x.shape)
        mask = features.merge(mask)
    y, running = layer(
        merged, vector(scale), vector(bias), running, axis=features.position, mask=mask
    )
    mean, var = (
        array.reshape(old.shape).astype(old.dtype)
        for array, old in zip(running[:2], statistics, strict=True)
    )
    return features.split(y).astype(dtype), Statistics(mean, var)


def _per_feature(
    layer: Any,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running: RunningStatistics,
    *,
    axis: int,
    mask: Array,
) -> tuple[Array, RunningStatistics]:
    """Normalize with a mask that differs from feature to feature, one feature after the other."""

    def of_one(x: Array, mask: Array, *vectors: Any) -> Any:
        weight, bias, running = jax.tree.map(lambda array: array[None], vectors)
        y, running = layer(x[..., None], weight, bias, running, axis=-1, mask=mask)
        return y[..., 0], jax.tree.map(lambda array: array[0], running)

    mapped = jax.vmap(of_one, in_axes=(axis, axis, 0, 0, 0), out_axes=(axis, 0))
    made: tuple[Array, RunningStatistics] = mapped(x, mask, weight, bias, running)
    return made


def _vector(array: Array | None, *, wide: bool) -> Array | None:
    """Return a vector of features in a dtype that batch_norm takes; wide: for float64 input."""
    if array is None:
        return None
    flat = array.reshape(-1)
    narrow = flat.dtype in (jnp.float16, jnp.bfloat16)
    return flat.astype(jnp.float32) if (narrow if wide else flat.dtype == jnp.float64) else flat
