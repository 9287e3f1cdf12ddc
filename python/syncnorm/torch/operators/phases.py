"""The phases of batch normalization, for a layer of one's own over a sum of one's own.

Forward: moments, the sum of its wire over the group, normalize. Backward: grad_moments, the sum of
its wire, grad_input. A sum leaves the wire as it is and gives another tensor, the total; in a group
of one the total may be None. group_size is the number of ranks in the sum. Every rank takes part in
all sums, also one without data.

What the functions share:
  x         (N, C, ...) of any strides, with two dimensions or more; float16, bfloat16, float32 or
            float64. y, residual, dy and the gradients of x and residual: x's shape and dtype.
  vectors   weight, bias, running_mean, running_var: (C,); any mix of float16, bfloat16 and float32,
            float32 or float64 where x is float64.
  wires     float64 vectors on x's device.
  settings  eps, momentum and the choices that a SyncBatchNorm has, the same in all phases. With
            in_place y is a new tensor all the same, and the backward phases take it as x.
  tag       a number that names the call, the same in all phases and on all ranks, below 2**63.
            Ranks with different tags get a DesyncError, or NaN on CUDA devices.

The functions have no derivatives: call them in a torch.autograd.Function. They may be called while
torch.compile traces. Raises ValueError for shapes that do not fit together, and, as all of the
core's functions, InvalidArgumentError (a ValueError) before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from syncnorm.torch.options import Settings
from syncnorm.torch.tensors import canonical_mask, contiguous, dense_like, prepared

from . import grad_ops, ops
from .encoding import encoded


class Gradients(NamedTuple):
    """Of the inputs of a normalization; None for those that are not wanted."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None


def moments(
    x: Tensor, settings: Settings, *, mask: Tensor | None = None, tag: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Forward, phase 1: the statistics of this rank.

    mask: bool or uint8, (N, *spatial) or (N, 1, *spatial); 0: the position does not count.

    Returns the wire of 2C + 4 values, to be summed; and where centring is on (in float64, unless
    settings say otherwise) the C variances that center reads, else None.
    """
    x = prepared(x.detach(), None)
    mask = None if mask is None else canonical_mask(mask, x)
    wire, *local_var = ops.moments(x, encoded(settings), mask, tag)
    return wire, local_var[0] if local_var else None


def center(
    x: Tensor,
    wire: Tensor,
    total: Tensor | None,
    local_var: Tensor,
    group_size: int,
    settings: Settings,
    *,
    tag: int = 0,
) -> Tensor:
    """Forward, phase 2, where moments gave local_var: makes the variance more accurate.

    Returns a second wire, whose sum over the group is the center_total of the other phases.
    """
    x = prepared(x.detach(), None)
    made: Tensor = ops.center(x, encoded(settings), wire, total, local_var, group_size, tag)
    return made


def normalize(
    x: Tensor,
    wire: Tensor,
    total: Tensor | None,
    group_size: int,
    settings: Settings,
    *,
    center_total: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    tag: int = 0,
) -> tuple[Tensor, Tensor]:
    """Forward, phase 3: activation((x - mean) * invstd * weight + bias [+ residual]).

    center_total: the sum of what center gave, where that was called.

    Returns y, in the memory format of x, and saved, float64 of 3C + 2 values, for the backward
    phases.
    """
    x = prepared(x.detach(), residual)
    y, saved = ops.normalize(
        x,
        encoded(settings),
        wire,
        total,
        center_total,
        _vector(weight),
        _vector(bias),
        _like(residual, x),
        None,
        None,
        group_size,
        "",
        tag,
    )
    return y, saved


def update_running(
    x: Tensor,
    wire: Tensor,
    total: Tensor | None,
    group_size: int,
    settings: Settings,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    center_total: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    tag: int = 0,
) -> None:
    """Moves the running statistics by this batch, in place, unless the whole group is empty.

    running_mean, running_var: contiguous. num_batches_tracked: one int64, incremented;
    momentum=None, the average over all batches, needs it.
    """
    ops.update_running(
        prepared(x.detach(), None),
        encoded(settings),
        wire,
        total,
        center_total,
        running_mean,
        running_var,
        num_batches_tracked,
        group_size,
        tag,
    )


def grad_moments(
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    settings: Settings,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    y: Tensor | None = None,
    tag: int = 0,
) -> Tensor:
    """Backward, phase 1: the gradient sums of this rank.

    x, weight, bias, saved: of the forward pass. y: its output, given exactly if there was both a
    residual and an activation.

    Returns the wire of 2C + 2 values, to be summed.
    """
    x = prepared(x.detach(), None)
    wire: Tensor = grad_ops.grad_moments(
        x,
        encoded(settings),
        _like(dy, x),
        saved,
        _vector(weight),
        _vector(bias),
        _like(y, x),
        tag,
    )
    return wire


def grad_input(
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    wire: Tensor,
    total: Tensor | None,
    group_size: int,
    settings: Settings,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    y: Tensor | None = None,
    wanted: Sequence[bool] = (True, True, True, False),
    tag: int = 0,
) -> Gradients:
    """Backward, phase 2: the gradients, of this rank or as settings.grad_reduction says.

    mask: as in moments; the others as in grad_moments. wanted: whether the gradients of x, weight,
    bias and residual are. That of the residual is dy itself where there was no activation.
    """
    x = prepared(x.detach(), None)
    mask = None if mask is None else canonical_mask(mask, x)
    exchanged = wire, total, mask, _like(y, x), group_size, tag
    return _gradients(grad_ops.grad_input, settings, wanted, x, weight, bias, dy, saved, *exchanged)


def infer(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    settings: Settings,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As normalize, with the running statistics and on this rank alone."""
    x = prepared(x.detach(), residual)
    y, saved = ops.infer(
        x,
        encoded(settings),
        running_mean,
        running_var,
        _vector(weight),
        _vector(bias),
        _like(residual, x),
    )
    return y, saved


def infer_backward(
    x: Tensor,
    dy: Tensor,
    saved: Tensor,
    settings: Settings,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    y: Tensor | None = None,
    wanted: Sequence[bool] = (True, True, True, False),
) -> Gradients:
    """The gradients of infer, on this rank alone. Arguments as in grad_input."""
    x = prepared(x.detach(), None)
    y = _like(y, x)
    return _gradients(grad_ops.infer_backward, settings, wanted, x, weight, bias, dy, saved, y)


def _gradients(
    operator: Callable[..., grad_ops.Four],
    settings: Settings,
    wanted: Sequence[bool],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dy: Tensor,
    *others: Any,
) -> Gradients:
    possible = (
        wanted[0],
        wanted[1] and weight is not None,
        wanted[2] and bias is not None,
        wanted[3],
    )
    identity = settings.activation == "identity"
    tensors = x, encoded(settings), possible, identity, _vector(weight), _vector(bias)
    dy = dense_like(dy.detach(), x)
    return Gradients(*grad_ops.gradients_by(operator, *tensors, dy, *others)[1])


def _vector(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else contiguous(parameter.detach())


def _like(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else dense_like(tensor.detach(), x)
