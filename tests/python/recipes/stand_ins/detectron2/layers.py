"""A stand-in for detectron2.layers: FrozenBatchNorm2d and get_norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization with constant statistics, weight and bias."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(num_features))

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    @classmethod
    def convert_frozen_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Replace every BatchNorm2d and SyncBatchNorm in module."""
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            frozen = cls(module.num_features, module.eps)
            frozen.load_state_dict(module.state_dict(), strict=False)
            return frozen
        for name, child in module.named_children():
            module.add_module(name, cls.convert_frozen_batchnorm(child))
        return module


def get_norm(norm: str, out_channels: int) -> nn.Module:
    """Create the layer that a configuration names."""
    kinds = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "FrozenBN": FrozenBatchNorm2d}
    return kinds[norm](out_channels)
