"""Synchronized batch normalization as functions, and its phases for a custom all-reduce.

Forward: moments, the all-reduce of its wire, normalize. Backward: grad_moments, the all-reduce of
its wire, grad_input. Every rank takes part in them, also without data. The all-reduce must not
change the wire: its result, the total, is another tensor, or None in a group of one.

Common arguments of the phases:
    x: (N, C, ...) of any strides, at least two dimensions; float16, bfloat16, float32 or float64.
        y, residual, dy and the gradients of x and residual have x's shape and dtype.
    weight, bias, running_mean, running_var: (C,); any mix of float16, bfloat16 and float32, or
        float32 and float64 if x is float64.
    wire, total, center_total, saved: float64 vectors on x's device.
    group_size: Number of ranks in the all-reduce.
    settings: eps, momentum and the choices of SyncBatchNorm, the same in all phases. With in_place
        y is nevertheless a new tensor; the backward phases take it as x.
    tag: Identifies the call, alike in all phases and on all ranks, below 2**63. Ranks with
        different tags get a DesyncError, or NaN on CUDA devices.

The phases have no derivatives: call them in a torch.autograd.Function. torch.compile may trace
them.

Raises:
    InvalidArgumentError: Shapes, dtypes or settings that do not fit; nothing has been written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import Unpack

from syncnorm.settings import Choices, Settings

from .call import Affine, Call
from .dispatch import batch_norm, batch_norm_list
from .groups.process_group import ALONE, check_timeout
from .groups.relative import chosen_group
from .ops import library as ops
from .ops.kernels import Running
from .ops.layout import (
    canonical_mask,
    check_flag,
    check_input,
    contiguous,
    dense,
    dense_like,
    residual_like,
)
from .ops.lengths import mask_of_lengths
from .ops.library import encoded

__all__ = [
    "Gradients",
    "Settings",
    "center",
    "grad_input",
    "grad_moments",
    "infer",
    "infer_backward",
    "moments",
    "normalize",
    "sync_batch_norm",
    "sync_batch_norm_shards",
    "update_running",
]


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    process_group: Any = None,
    group_size: int | None = None,
    name: str | None = None,
    timeout: float | None = None,
    **choices: Unpack[Choices],
) -> Tensor:
    """Apply torch.nn.functional.batch_norm with statistics over the ranks of process_group.

    Args:
        input: (N, C, ...).
        running_mean, running_var: (C,). In training updated in place if given; otherwise used.
        weight, bias: (C,).
        training: Use the statistics of the batch. Otherwise no rank communicates.
        momentum: None: the cumulative average, which needs num_batches_tracked.
        num_batches_tracked: One number, incremented in training.
        residual, mask, lengths: As in SyncBatchNorm.forward.
        process_group, group_size, name, timeout, choices: As in SyncBatchNorm.

    Returns:
        The output, of input's shape, dtype and memory format.
    """
    check_input(input)
    check_flag(training, "training")
    check_timeout(timeout)
    settings, affine = Settings(eps, momentum, **choices), Affine(weight, bias)
    running = Running(running_mean, running_var, num_batches_tracked)
    group = chosen_group(process_group, group_size)
    if lengths is not None and training:
        mask = mask_of_lengths(lengths, input, mask)
    others = (residual, mask, group, name, 0, timeout)
    return batch_norm(input, Call(settings, training, affine, running, *others))


def sync_batch_norm_shards(
    inputs: Sequence[Tensor],
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    residuals: Sequence[Tensor | None] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    lengths: Sequence[Tensor | None] | None = None,
    num_batches_tracked: Tensor | None = None,
    **choices: Unpack[Choices],
) -> list[Tensor]:
    """Normalize every input with the statistics of all of them, each counting as one rank.

    Args:
        inputs: (N, C, ...) each, of one C and dtype; they may be on different devices.
        weight, bias, running_mean, running_var: (C,), on the first input's device. The gradient of
            weight and bias is that of all shards (their mean with grad_reduction="mean").
        momentum, num_batches_tracked: As in sync_batch_norm.
        residuals, masks, lengths: One per input, or None.
        choices: As in SyncBatchNorm. A rank-local variance_factor takes the first input's count.

    Returns:
        One output per input.
    """
    settings, affine = Settings(eps, momentum, **choices), Affine(weight, bias)
    running = Running(running_mean, running_var, num_batches_tracked)
    if lengths is not None:
        masks = mask_of_lengths(lengths, inputs, masks)
    call = Call(settings, True, affine, running, residuals, masks, ALONE)
    return batch_norm_list(inputs, call, "residuals", "masks")


class Gradients(NamedTuple):
    """The gradients of a normalization's inputs; None for one that is not wanted."""

    x: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None


def moments(
    x: Tensor,
    settings: Settings,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    tag: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Compute the statistics of this rank: forward, phase 1.

    Args:
        mask: bool or uint8, (N, *spatial) or (N, 1, *spatial). Positions with 0 do not count.
        lengths: Integers (N,), in place of a mask: the positions of the last axis that count.

    Returns:
        The wire, 2C + 4 values, to be all-reduced. Where centering is on (float64, unless settings
        say otherwise), the C variances that center reads, else None.
    """
    x = _dense(x)
    if lengths is not None:
        mask = mask_of_lengths(lengths, x, mask)
    wire, *local_var = ops.moments(x, encoded(settings), canonical_mask(mask, x), tag)
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
    """Make the variance more accurate: forward, phase 2, where moments returned local_var.

    Returns:
        A second wire, C + 2 values. Its all-reduce gives the center_total of the other phases.
    """
    made: Tensor = ops.center(_dense(x), encoded(settings), wire, total, local_var, group_size, tag)
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
    """Compute activation((x - mean) * invstd * weight + bias [+ residual]): forward, phase 3.

    Args:
        center_total: The all-reduced result of center, if that was called.

    Returns:
        y, in the memory format of x, and saved, 3C + 2 values, for the backward phases.
    """
    values, residual = _dense(x), _detached(residual)
    given = (_vector(weight), _vector(bias), residual_like(residual, x, values), None, None)
    totals = (wire, total, center_total)
    y, saved = ops.normalize(values, encoded(settings), *totals, *given, group_size, "", tag)
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
    """Update the running statistics with this batch in place, unless the whole group is empty.

    Args:
        num_batches_tracked: One number, incremented. momentum=None needs it.
    """
    totals, running = (wire, total, center_total), (running_mean, running_var, num_batches_tracked)
    ops.update_running(_dense(x), encoded(settings), *totals, *running, group_size, tag)


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
    """Compute the gradient sums of this rank: backward, phase 1.

    Args:
        x, weight, bias, saved: Those of the forward pass.
        y: Its output, exactly if it had both a residual and an activation.

    Returns:
        The wire, 2C + 2 values, to be all-reduced.
    """
    x = _dense(x)
    given = (_like(dy, x), saved, _vector(weight), _vector(bias), _like(y, x))
    wire: Tensor = ops.grad_moments(x, encoded(settings), *given, tag)
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
    lengths: Tensor | None = None,
    y: Tensor | None = None,
    wanted: Sequence[bool] = (True, True, True, False),
    tag: int = 0,
) -> Gradients:
    """Compute the gradients, of this rank or as settings.grad_reduction says: backward, phase 2.

    Args:
        mask, lengths: As in moments. Other arguments: as in grad_moments.
        wanted: Which gradients to compute: of x, weight, bias and residual. Without an activation
            that of the residual is dy itself.
    """
    x = _dense(x)
    if lengths is not None:
        mask = mask_of_lengths(lengths, x, mask)
    backward = (x, encoded(settings), wanted, _vector(weight), _vector(bias), _like(dy, x), saved)
    others = (wire, total, canonical_mask(mask, x), _like(y, x), group_size, tag)
    identity = settings.activation == "identity"
    return Gradients(*ops.gradients_by(ops.grad_input, identity, *backward, *others)[1])


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
    """Normalize with the running statistics, on this rank alone. Returns as normalize."""
    values, residual = _dense(x), _detached(residual)
    given = (_vector(weight), _vector(bias), residual_like(residual, x, values))
    y, saved = ops.infer(values, encoded(settings), running_mean, running_var, *given)
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
    """Compute the gradients of infer, on this rank alone. Arguments as in grad_input."""
    x = _dense(x)
    backward = (x, encoded(settings), wanted, _vector(weight), _vector(bias), _like(dy, x), saved)
    identity = settings.activation == "identity"
    return Gradients(*ops.gradients_by(ops.infer_backward, identity, *backward, _like(y, x))[1])


def _dense(x: Tensor) -> Tensor:
    check_input(x)
    return dense(x.detach())


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _vector(parameter: Tensor | None) -> Tensor | None:
    return contiguous(_detached(parameter))


def _like(tensor: Tensor | None, x: Tensor) -> Any:
    return None if tensor is None else dense_like(tensor.detach(), x)
