"""What a parameter or buffer starts from: a name, a number, or a function that fills a tensor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Initializer = str | float | Callable[[Tensor], Any]

# The names and numbers of mxnet.initializer, as far as they make sense for vectors.
_NAMED: dict[str, Callable[[Tensor], Any]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "uniform": partial(nn.init.uniform_, a=-0.07, b=0.07),
    "normal": partial(nn.init.normal_, std=0.01),
}


def filler(initializer: Initializer, argument: str) -> Callable[[Tensor], Any]:
    """A function that fills a tensor in place. argument: whose value this is, for the message."""
    if callable(initializer):
        return initializer
    if isinstance(initializer, str) and initializer in _NAMED:
        return _NAMED[initializer]
    if isinstance(initializer, int | float):
        return partial(nn.init.constant_, val=initializer)
    raise ValueError(
        f"{argument}: got {initializer!r}, expected one of {', '.join(_NAMED)}, a number, or a"
        " function that fills a tensor in place, such as torch.nn.init.ones_"
    )


def fill(tensor: Tensor, initializer: Initializer, argument: str) -> None:
    with torch.no_grad():
        filler(initializer, argument)(tensor)
