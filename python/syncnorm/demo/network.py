"""Build the network of the demo."""

from __future__ import annotations

import torch
from torch import nn

import syncnorm.torch


def build_network(norm: str, seed: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Build three convolutions and two linear layers, each but the last followed by batch norm.

    Args:
        norm: "torch" or "syncnorm".
        seed: Seed of the parameters, which are the same for every norm and dtype.
        dtype: Dtype of the parameters.
        device: Device of the parameters.
    """
    torch.manual_seed(seed)
    network: nn.Module = nn.Sequential(
        *_convolution(1, 16, stride=1),
        *_convolution(16, 32, stride=2),
        *_convolution(32, 64, stride=2),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    if norm == "syncnorm":
        network = syncnorm.torch.convert_sync_batchnorm(network)
    return network.to(device=device, dtype=dtype)


def _convolution(channels_in: int, channels_out: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
