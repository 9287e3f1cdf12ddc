"""Small problems of several shards, for derivatives by finite differences and rank by rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from syncnorm.torch import sync_batch_norm_shards

SHAPES = {1: [(4, 3, 2)], 2: [(3, 3, 2), (2, 3, 1)], 3: [(2, 3, 2), (0, 3, 2), (3, 3, 1)]}

# eps = 0.5 lies between the variances of the channels, so that eps_mode max clamps one of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "max": {"eps_mode": "max", "eps": 0.5, "masked": True},
    "relu": {"activation": "relu", "with_residual": True},
    "leaky_relu": {"activation": "leaky_relu", "negative_slope": 0.3, "masked": True},
    "elu": {"activation": "elu", "masked": True},
    "elu of a sum": {"activation": "elu", "with_residual": True},
    "all": {
        "eps_mode": "max",
        "eps": 0.5,
        "activation": "leaky_relu",
        "masked": True,
        "with_residual": True,
    },
}


class Problem:
    """Shards, parameters, residuals and masks of one small case."""

    def __init__(
        self,
        count: int,
        *,
        masked: bool = False,
        with_residual: bool = False,
        **options: Any,
    ) -> None:
        scale = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64).view(1, 3, 1)
        self.xs = [leaf(torch.randn(shape) * scale + 1) for shape in SHAPES[count]]
        self.weight, self.bias = leaf(torch.randn(3)), leaf(torch.randn(3))
        self.residuals = [leaf(torch.randn(x.shape)) for x in self.xs] if with_residual else None
        self.masks = None
        if masked:
            self.masks = [torch.rand(x.shape[0], *x.shape[2:]) < 0.7 for x in self.xs]
            self.masks[0][0] = True
        self.dys = [torch.randn(x.shape, dtype=torch.float64) for x in self.xs]
        self.options = options

    def leaves(self) -> list[Tensor]:
        return [self.weight, self.bias, *self.xs, *(self.residuals or [])]

    def normalized(self, weight: Tensor, bias: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(self.xs)
        return tuple(
            sync_batch_norm_shards(
                tensors[:count],
                weight=weight,
                bias=bias,
                residuals=tensors[count:] or None,
                masks=self.masks,
                **self.options,
            )
        )


def leaf(tensor: Tensor) -> Tensor:
    return tensor.double().requires_grad_()
