"""Errors and checks that several systems have alike."""

from __future__ import annotations

from torch import Tensor


class RefusedArgument(ValueError, AssertionError):
    """A ValueError, where the system that is stood in for has an assertion."""


def check_channels(input: Tensor, expected: int, dimension: int = 1) -> None:
    """Raise ValueError unless input has so many channels."""
    if input.shape[dimension] != expected:
        raise ValueError(
            f"expected {expected} channels in dimension {dimension} (got {input.shape[dimension]}"
            f" in an input of shape {tuple(input.shape)})"
        )
