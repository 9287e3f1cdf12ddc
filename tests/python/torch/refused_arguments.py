"""Arguments of sync_batch_norm that are refused, each as a change to a call that is accepted."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

C = 4
Arguments = dict[str, Any]


def accepted(rank: int, dtype: torch.dtype = torch.float32, **options: Any) -> Arguments:
    """Return the arguments of this rank, the same in every call."""
    generator = torch.Generator().manual_seed(rank)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, generator=generator)

    mask = torch.ones(3, 2, dtype=torch.bool)
    mask[0] = False
    return {
        "input": random(3, C, 2).requires_grad_(),
        "running_mean": torch.zeros(C, dtype=dtype),
        "running_var": torch.ones(C, dtype=dtype),
        "weight": torch.linspace(0.5, 2, C, dtype=dtype).requires_grad_(),
        "bias": torch.linspace(-1, 1, C, dtype=dtype).requires_grad_(),
        "residual": random(3, C, 2).requires_grad_(),
        "mask": mask,
        "num_batches_tracked": torch.tensor(0),
        "training": True,
        "activation": "leaky_relu",
        **options,
    }


def _quantized(good: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: deprecated
        return torch.quantize_per_tensor(good.detach().float(), 0.1, 0, torch.qint8)


# No argument can be such a tensor.
_TENSORS: dict[str, Callable[[Tensor], Any]] = {
    "complex": lambda good: good.detach().to(torch.complex64),
    "sparse": lambda good: good.detach().float().to_sparse(),
    "meta": lambda good: good.detach().to("meta"),
    "quantized": _quantized,
    "str": lambda _: "tensor",
    "list": lambda good: good.tolist(),
    "array": lambda good: good.detach().numpy(),
}
_SHAPED: dict[str, Callable[[Tensor], Any]] = {
    "longer": lambda good: torch.cat([good.detach(), good.detach()]),
    "more axes": lambda good: good.detach()[None, None],
}
_FLOATING: dict[str, Callable[[Tensor], Any]] = {
    **_SHAPED,
    "integers": lambda good: good.detach().long(),
    "dtype": lambda good: good.detach().to(
        torch.float16 if good.dtype == torch.float64 else torch.float64
    ),
}
_STATISTICS: dict[str, Callable[[Tensor], Any]] = {
    **_FLOATING,
    "requires grad": lambda good: good.clone().requires_grad_(),
    "absent": lambda _: None,
}
WRONG: dict[str, dict[str, Callable[[Any], Any]]] = {
    "input": {
        "1-D": lambda good: good.detach()[0, :, 0],
        "integers": lambda good: good.detach().long(),
        **{name: wrong for name, wrong in _TENSORS.items() if name != "meta"},
    },
    "weight": {**_TENSORS, **_FLOATING},
    "bias": {**_TENSORS, **_FLOATING},
    "residual": {**_TENSORS, **_FLOATING},
    "running_mean": {**_TENSORS, **_STATISTICS},
    "running_var": {**_TENSORS, **_STATISTICS},
    "num_batches_tracked": {
        **_TENSORS,
        "two values": lambda _: torch.zeros(2, dtype=torch.int64),
        "requires grad": lambda _: torch.tensor(0.0, requires_grad=True),
        "bool": lambda _: torch.tensor(False),
    },
    "mask": {**_TENSORS, **_SHAPED, "dtype": lambda good: good.float()},
    "momentum": {"value": lambda _: 1.5, "str": lambda _: "0.1"},
    "eps": {"value": lambda _: -1.0, "0 in training": lambda _: 0.0, "str": lambda _: "small"},
    "weighting": {"value": lambda _: "median", "int": lambda _: 3},
    "in_place": {"str": lambda _: "no", "int": lambda _: 3},
    "training": {"str": lambda _: "no"},
    "timeout": {"value": lambda _: -1.0, "str": lambda _: "1 s", "bool": lambda _: True},
    "process_group": {"str": lambda _: "world"},
}
CASES = [(name, wrong) for name, kinds in WRONG.items() for wrong in kinds]


def refused(good: Arguments, name: str, wrong: str) -> Arguments:
    """Return the arguments with one of them wrong."""
    return {**good, name: WRONG[name][wrong](good.get(name))}
