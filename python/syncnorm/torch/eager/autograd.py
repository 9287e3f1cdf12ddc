"""What the autograd Functions share: what they save, and which uses of autograd they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, strided
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from syncnorm import InvalidArgumentError, Options, UnsupportedError
from syncnorm.torch.ops.kernels import NO_STATISTICS, Running
from syncnorm.torch.ops.layout import dense, dense_like, int64_counter, on_device_of, resolved

Optional = Tensor | None
Tensors = tuple[Optional, ...]

# Dummy input that keeps this rank in the backward all-reduce if none of its inputs requires a
# gradient. On the CPU, so that importing this package initializes no device; created once, because
# a compiler rejects such a tensor if it is created while tracing.
GRAD_DUMMY = torch.empty(0, dtype=torch.float64, device="cpu", requires_grad=True)


# One call as its autograd Function sees it, besides tensors: options, Group, whether it uses the
# running statistics (nothing then goes through the statistics in backward), the running statistics
# to use or update, and a mask per shard. A NamedTuple is slower.
Pass = tuple[Options, Any, bool, Running, Sequence[Optional]]

# The inputs of the backward pass of one shard: x, dy, saved, weight, bias, y, mask, curved.
# y: if the core reads it; without a residual it computes y again. curved: y if the slope of the
# activation depends on more than its sign, for the second derivative. A NamedTuple is slower.
Shard = tuple[Tensor, Tensor, Tensor, Optional, Optional, Optional, Optional, Optional]


def save(
    ctx: Any,
    this: Pass,
    weight: Optional,
    bias: Optional,
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    residuals: Sequence[Optional],
    saved: Sequence[Optional],
) -> None:
    """Save the tensors of a forward pass on ctx, in the order in which `shards_of` reads them."""
    options, masks = this[0], this[4]
    activation = options.activation
    if options.in_place:
        ctx.mark_dirty(*xs)
        xs = ys
    if activation == "identity" and masks == (None,):
        ctx.save_for_backward(weight, bias, *xs, *saved)
        return
    nothing = [None] * len(xs)
    read: list[Optional] = []
    for y, residual in zip(ys, residuals, strict=True):
        # Detached: the second derivative goes through `curved` only.
        read.append(None if residual is None or activation == "identity" else y.detach())
    curved = ys if activation == "elu" and not options.in_place else nothing
    ctx.save_for_backward(weight, bias, *xs, *saved, *masks, *read, *curved)


def shards_of(this: Pass, tensors: Sequence[Any]) -> list[Shard]:
    """Return the shards of a backward pass from dy of each shard, followed by the saved tensors.

    A hook on saved tensors may have changed the layout of x; the others follow it.
    """
    count = len(this[4])
    if len(tensors) == 5:  # one shard, and nothing beside x and saved
        dy, weight, bias, x, saved = tensors
        if dy.layout is not strided or dy.is_neg():
            dy = resolved(dy, "gradient: ")
        if x.is_contiguous():
            dy = dy.contiguous()
        else:
            x = dense(x)
            dy = dense_like(dy, x)
        return [(x, dy, saved, weight, bias, None, None, None)]
    weight, bias = tensors[count : count + 2]
    columns = tensors[count + 2 :]
    shards: list[Shard] = []
    for index in range(count):
        x, saved, mask, y, curved = columns[index::count]
        x = dense(x)
        if index > 0:
            weight, bias, mask = on_device_of(x, weight, bias, mask)
        y = None if y is None else dense_like(y, x)
        dy = dense_like(resolved(tensors[index], "gradient: "), x)
        shards.append((x, dy, saved, weight, bias, y, mask, curved))
    return shards


def wants_gradient(*tensors: Optional) -> bool:
    """Return whether one of the tensors requires a gradient."""
    for tensor in tensors:  # noqa: SIM110 - any() of a generator costs more than its body
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def _refuse_leaves(running: Running) -> None:
    """Raise InvalidArgumentError for running statistics that autograd does not let be updated."""
    for field, each in zip(Running._fields, running, strict=True):
        if each is not None and each.requires_grad and torch.is_grad_enabled():
            name = field if field == "num_batches_tracked" else f"running_{field}"
            raise InvalidArgumentError(
                f"{name}: got a tensor that requires a gradient, expected one that can be updated"
                f" in place: pass {name}.detach()"
            )


def running_to_update(running: Running, x: Tensor, in_backward: bool) -> Running:
    """Return the running statistics that a call updates, as the core takes them.

    Args:
        in_backward: Whether a call inside a backward pass updates them. It repeats an earlier one
            (activation checkpointing).

    Raises:
        InvalidArgumentError: One requires a gradient, or num_batches_tracked is no number.
    """
    # Private, but torch's module tracker and FSDP use it as well.
    if not in_backward and torch._C._current_graph_task_id() != -1:  # noqa: SLF001
        return NO_STATISTICS
    mean, var, count = running
    if (mean is not None and mean.requires_grad) or (var is not None and var.requires_grad):
        _refuse_leaves(running)
    if count is None or count.dtype is torch.int64:
        return running
    _refuse_leaves(running)
    return running._replace(num_batches_tracked=int64_counter(count, x))


def may_transform() -> bool:
    """Return whether forward-mode differentiation or a torch.func transform is active.

    The private functions of torch are several times faster than the public ones.
    """
    active: bool = torch._C._are_functorch_transforms_active()  # noqa: SLF001
    return active or forward_ad._current_level >= 0  # noqa: SLF001


def refuse_transforms(*tensors: Optional) -> None:
    """Raise UnsupportedError for tangents and transforms: the kernels would silently lose them."""
    if torch._C._are_functorch_transforms_active():  # noqa: SLF001
        raise _refused("called inside a transform of torch.func (vmap, grad, jvp, hessian, ...)")
    if any(map(_has_tangent, tensors)):
        raise _refused("given a dual tensor of forward-mode automatic differentiation")


def refuse_batched(*gradients: Optional) -> None:
    """Raise UnsupportedError for gradients that a backward pass cannot differentiate through."""
    if may_transform():
        refuse_transforms(*gradients)
    for gradient in gradients:
        if gradient is not None and is_legacy_batchedtensor(gradient):
            raise _refused("given a batch of gradients (is_grads_batched=True, vectorize=True)")


def _refused(why: str) -> UnsupportedError:
    return UnsupportedError(
        f"syncnorm.torch's batch normalization was {why}; expected tensors that are neither batched"
        " nor carry a tangent. Take derivatives, second ones too, with torch.autograd.grad, one"
        " gradient at a time, or use the model that"
        " syncnorm.torch.revert_sync_batchnorm(model) returns"
    )


def _has_tangent(tensor: Optional) -> bool:
    if tensor is None:
        return False
    unpacked = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return unpacked.tangent is not None


def refuse_overwriting(xs: Sequence[Tensor]) -> None:
    """Raise InvalidArgumentError for leaves that require a gradient, and a tensor given twice."""
    if torch.is_grad_enabled() and any(x.is_leaf and x.requires_grad for x in xs):
        raise InvalidArgumentError(
            "input: got a leaf that requires a gradient, which a layer with in_place=True would"
            " overwrite; expected the output of an operation, or a layer with in_place=False"
        )
    if len({id(x) for x in xs}) < len(xs):
        raise InvalidArgumentError(
            "inputs: got a tensor twice, which in_place=True would overwrite twice; expected"
            " different tensors, or in_place=False"
        )
