"""The options of the core, made once for each set of values."""

from __future__ import annotations

import functools
from typing import TypedDict

from syncbn import Options


class Choices(TypedDict, total=False):
    """The keyword arguments that choose how a layer computes; docs/pytorch.md explains them."""

    weighting: str
    eps_mode: str
    variance_factor: str
    grad_reduction: str
    centering: str
    activation: str
    negative_slope: float


@functools.lru_cache(maxsize=1024)
def options_of(
    eps: float,
    momentum: float | None,
    weighting: str = "count",
    eps_mode: str = "add",
    variance_factor: str = "unbiased",
    grad_reduction: str = "local",
    centering: str = "auto",
    activation: str = "identity",
    negative_slope: float = 0.01,
) -> Options:
    """The Options with these values; the same object for the same values."""
    return Options(
        eps=eps,
        momentum=momentum,
        weighting=weighting,
        eps_mode=eps_mode,
        variance_factor=variance_factor,
        grad_reduction=grad_reduction,
        centering=centering,
        activation=activation,
        negative_slope=negative_slope,
    )
