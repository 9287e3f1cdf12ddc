"""The running statistics, which a functional layer takes and returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array


class RunningStatistics(NamedTuple):
    """Of all batches so far. A pytree; no gradient goes through it.

    mean, var: (C,). num_batches_tracked: an integer array of shape (), which momentum=None needs,
    or None.
    """

    mean: Array
    var: Array
    num_batches_tracked: Array | None = None

    @classmethod
    def initial(cls, channels: int, dtype: Any = jnp.float32) -> RunningStatistics:
        """Those of no batch: mean 0, variance 1, count 0."""
        count = jnp.zeros((), jnp.int32)
        return cls(jnp.zeros(channels, dtype), jnp.ones(channels, dtype), count)


def counter_bits(count: Array | None) -> Array | None:
    """The int64 that the core counts in: its bits, the lower half first."""
    if count is None:
        return None
    low = count.astype(jnp.uint32)
    return jnp.stack([low, jnp.zeros_like(low)])


def counter_value(bits: Array | None, count: Array | None) -> Array | None:
    """The counter again, in the dtype of the one that was given."""
    return None if bits is None or count is None else bits[0].astype(count.dtype)
