"""Comparison by the rounding of what was added up, never by a loose constant."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_rounded(got: Tensor, exact: Tensor, terms: Tensor, k: float = 8) -> None:
    """|got - exact| <= k * eps of got's dtype * the magnitude of the terms that were added."""
    info = torch.finfo(got.dtype)
    bound = k * (info.eps * terms.detach().double().abs() + info.tiny)
    difference = (got.detach().double() - exact.detach().double()).abs()
    worst = (difference / bound).max().item() if difference.numel() else 0.0
    assert (difference <= bound).all(), f"{worst:.2f} times the bound of {k} roundings"
