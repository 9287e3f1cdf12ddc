"""Complete calls of the binding on torch tensors, for tests that change one argument."""

from __future__ import annotations

from typing import Any

import torch

from syncnorm import _core

N, C, H, W = 4, 3, 5, 6
OPTIONS = _core.Options()


def call_arguments(x: torch.Tensor, options: _core.Options = OPTIONS) -> dict[str, Any]:
    """Keyword arguments of a complete forward call; outputs are filled with 7."""
    sizes = _core.sizes(x, options)
    channels = x.shape[1]
    return {
        "options": options,
        "comm": None,
        "x": x,
        "y": torch.full_like(x, 7),
        "saved": torch.full((sizes.saved,), 7, dtype=torch.float64),
        "weight": torch.ones(channels),
        "bias": torch.zeros(channels),
        "running_mean": torch.full((channels,), 7.0),
        "running_var": torch.full((channels,), 7.0),
        "num_batches_tracked": torch.tensor(7),
        "workspace": torch.empty(sizes.workspace, dtype=torch.uint8),
    }


OUTPUTS = ("y", "saved", "running_mean", "running_var", "num_batches_tracked")


def image(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, C, H, W, generator=generator, dtype=torch.float64).to(dtype)


def view(tensor: torch.Tensor, **changes: Any) -> _core.Array:
    given = {
        "pointer": tensor.data_ptr(),
        "shape": tuple(tensor.shape),
        "strides_in_elements": tensor.stride(),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        **changes,
    }
    return _core.Array(**given)


def expected(x: torch.Tensor) -> torch.Tensor:
    if x.numel() == 0:
        return x.double()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x.double(), axes, correction=0, keepdim=True)
    return (x.double() - mean) / torch.sqrt(var + 1e-5)


def phase_arguments() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = image()
    sizes = _core.sizes(x, OPTIONS)
    scratch = torch.empty(sizes.workspace, dtype=torch.uint8)
    return x, torch.zeros(sizes.wire, dtype=torch.float64), scratch
