"""What the autograd Functions share: which gradients to make, and first derivatives only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from syncbn import Options, UnsupportedError

from .phases import Backward


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd would record an operation on these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def backward_reads_output(options: Options, residual: Tensor | None) -> bool:
    """Without a residual the sign before the activation is recomputed from x."""
    return residual is not None and options.activation != "identity"


def allocate_gradients(options: Options, shard: Backward, wanted: Sequence[bool]) -> None:
    """Room for those gradients of x, weight, bias and residual that are wanted."""
    shard.dx = _empty_if(wanted[0], shard.x)
    shard.dweight = _empty_if(wanted[1], shard.weight)
    shard.dbias = _empty_if(wanted[2], shard.bias)
    shard.dresidual = _empty_if(wanted[3] and options.activation != "identity", shard.x)


def gradients_of(shard: Backward, wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients of x, weight, bias and residual, once they are written."""
    through = shard.dy if shard.dresidual is None else shard.dresidual
    return shard.dx, shard.dweight, shard.dbias, through if wanted[3] else None


def _empty_if(wanted: bool, model: Tensor | None) -> Tensor | None:
    return torch.empty_like(model) if wanted and model is not None else None


class _FirstOrder(Function):
    """Gradients of the first order, recorded so that asking for the second is refused."""

    @staticmethod
    def forward(ctx: Any, gradients: Callable[..., Any], *tensors: Tensor | None) -> Any:
        return gradients(*tensors)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise UnsupportedError(
            "the second derivative of syncbn.torch's batch normalization was asked for; expected"
            " first derivatives only: do without create_graph=True, or without a loss on gradients"
            " that pass through this layer"
        )


def first_order(gradients: Callable[..., Any], *tensors: Tensor | None) -> Any:
    """gradients(*tensors), differentiable only as far as a clear error."""
    if not torch.is_grad_enabled():
        return gradients(*tensors)
    # With create_graph=True.
    return _FirstOrder.apply(gradients, *tensors)  # type: ignore[no-untyped-call]
