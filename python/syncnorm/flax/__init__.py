"""Synchronized batch normalization for Flax: `BatchNorm` of linen, and `nnx.BatchNorm`.

Both are Flax's own layers, with their arguments, variables and checkpoints;
`syncnorm.jax.batch_norm` computes the numbers.
"""

from __future__ import annotations

from . import linen, nnx
from .linen import BatchNorm

__all__ = ["BatchNorm", "linen", "nnx"]
