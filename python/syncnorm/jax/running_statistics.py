"""The running statistics, which batch_norm takes and returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class RunningStatistics(NamedTuple):
    """Running mean and variance: a pytree without gradients.

    Attributes:
        mean: (C,), float16, bfloat16, float32, or float64 where x is float64.
        var: As mean.
        num_batches_tracked: An integer array of shape (), or None. momentum=None requires it.
    """

    mean: Array
    var: Array
    num_batches_tracked: Array | None = None

    @classmethod
    def initial(cls, channels: int, dtype: Any = jnp.float32) -> RunningStatistics:
        """Return the running statistics before the first batch: mean 0, variance 1, count 0.

        Args:
            channels: The number of channels, C.
            dtype: The dtype of mean and var.
        """
        count = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros(channels, dtype), jnp.ones(channels, dtype), count)


def counter_to_bits(count: Array | None) -> Array | None:
    """Return the bits of the core's int64 counter as two uint32, the lower half first."""
    if count is None:
        return None
    low = count.astype(jnp.uint32)
    return jnp.stack([low, jnp.zeros_like(low)])


def counter_from_bits(bits: Array | None, count: Array | None) -> Array | None:
    """Return the counter from its bits, in the dtype of `count`."""
    return None if bits is None or count is None else bits[0].astype(count.dtype)
