"""BatchNorm for flax.linen."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import canonicalize_dtype
from jax import Array

from .features import Features, Statistics, is_complex, normalize


class BatchNorm(nn.BatchNorm):
    """flax.linen.BatchNorm, computed by syncnorm: arguments, variables and names are the same.

    A model that uses it in place of Flax's layer has the same variables, so that checkpoints load
    in both directions.

    Differences, on purpose:
      - The variance does not cancel; `use_fast_variance` and `force_float32_reductions` do not
        change the statistics, which are sums in float64.
      - With `axis_name` and a mask, every value that counts has the same weight, where Flax
        averages the means of the devices. A device may have no value that counts. Where no device
        has one, the running statistics stay.
      - Complex input is left to Flax's own code.
      - No gradient goes through the running statistics.
      - `axis_name` may be a tuple of names, and `axis_index_groups` work in `jax.shard_map` and
        `jax.vmap`.
    """

    @nn.compact
    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: Any = None
    ) -> Array:
        """Normalize the input, and update the running statistics if they are not used.

        While the module is initialized, the running statistics stay and `axis_name` is not used.

        Args:
            x: The input.
            use_running_average: Normalize with the running statistics instead of those of the
                batch. Either here or in the constructor.
            mask: Which positions count in the statistics; broadcast to the shape of x.

        Returns:
            The normalized input, in the shape of x.

        Raises:
            InvalidArgumentError: A shape, a dtype or a setting is not allowed.
        """
        x = jnp.asarray(x)
        if is_complex(x, self.dtype):
            result: Array = super().__call__(x, use_running_average, mask=mask)
            return result
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        features = Features.of(x.shape, self.axis)
        wide = self.force_float32_reductions
        statistics_dtype = jnp.float32 if wide else self.param_dtype
        mean = self.variable("batch_stats", "mean", jnp.zeros, features.shape, statistics_dtype)
        var = self.variable("batch_stats", "var", jnp.ones, features.shape, statistics_dtype)
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, features.shape, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, features.shape, self.param_dtype)
        initializing = self.is_initializing()
        axis_name = None if initializing else self.axis_name
        y, new = normalize(
            x,
            features,
            Statistics(mean.value, var.value),
            scale,
            bias,
            dtype=canonicalize_dtype(x, scale, bias, dtype=self.dtype),
            use_running_average=use_running_average,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis_name=axis_name,
            axis_index_groups=self.axis_index_groups,
            mask=mask,
            name="/".join(self.path) if axis_name else None,
        )
        if not (use_running_average or initializing):
            mean.value, var.value = new
        return y
