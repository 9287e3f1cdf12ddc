"""BatchNorm for flax.nnx."""

from __future__ import annotations

from typing import Any

from flax import nnx
from flax.nnx.module import first_from
from jax import Array

from .features import Features, Statistics, is_complex, normalize


class BatchNorm(nnx.BatchNorm):
    """flax.nnx.BatchNorm, computed by syncnorm: arguments and state are the same.

    The differences are those of `syncnorm.flax.linen.BatchNorm`. Besides, the running statistics
    are used as they are stored, in float32, where Flax rounds them to `dtype`.
    """

    def __call__(
        self, x: Any, use_running_average: bool | None = None, *, mask: Any = None
    ) -> Array:
        """Normalize the input, and update the running statistics if they are not used.

        Args:
            x: The input.
            use_running_average: Normalize with the running statistics instead of those of the
                batch. It precedes the argument of the constructor, and `eval()`.
            mask: Which positions count in the statistics; broadcast to the shape of x.

        Returns:
            The normalized input, in the shape of x.

        Raises:
            InvalidArgumentError: A shape, a dtype or a setting is not allowed.
        """
        use_running_average = first_from(
            use_running_average,
            self.use_running_average,
            error_msg="use_running_average: got None, expected True or False in the constructor or"
            " in the call; or use nnx.view(model, use_running_average=True)",
        )
        if is_complex(x, self.dtype):
            result: Array = super().__call__(x, use_running_average, mask=mask)
            return result
        scale = None if self.scale is None else self.scale[...]
        bias = None if self.bias is None else self.bias[...]
        statistics = Statistics(self.mean[...], self.var[...])
        x, _, _, scale, bias = self.promote_dtype((x, *statistics, scale, bias), dtype=self.dtype)
        y, new = normalize(
            x,
            Features.of(x.shape, self.axis),
            statistics,
            scale,
            bias,
            dtype=x.dtype,
            use_running_average=use_running_average,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            mask=mask,
        )
        if not use_running_average:
            self.mean[...], self.var[...] = new
        return y
