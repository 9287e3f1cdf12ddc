"""What the autograd Functions share: which gradients to make, and how often to differentiate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import Function, forward_ad

from syncnorm import Options, UnsupportedError

from .anchor import ANCHOR
from .phases import Backward
from .second_order import Cotangents, Derivatives
from .tensors import dense, dense_like

Tensors = tuple[Tensor | None, ...]

# From dy and what was saved to the gradients that are passed on.
First = Callable[..., Tensors]
# From the cotangents of those gradients, and what First was given, to the derivatives by that.
Second = Callable[[Tensors, Tensors], Tensors]


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd would record an operation on these tensors."""
    if torch.is_grad_enabled():
        for tensor in tensors:  # not any() of a generator, which costs more than what it asks
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def in_backward_pass() -> bool:
    """Whether autograd runs a backward pass in this thread.

    A forward pass inside it repeats one that was made before (activation checkpointing, reversible
    networks), so that it must not move the running statistics again.
    """
    # Private, but what torch's own trackers of modules and FSDP ask as well.
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001


def refuse_transforms(*tensors: Tensor | None) -> None:
    """UnsupportedError where forward-mode derivatives or torch.func would go through a call.

    The kernels work on memory and would lose tangents without a word. Private functions of torch
    are asked, because what is public costs several times as much, in every call.
    """
    if torch._C._are_functorch_transforms_active():  # noqa: SLF001
        raise _refused("called inside a transform of torch.func (vmap, grad, jvp, hessian, ...)")
    if forward_ad._current_level >= 0 and any(map(_has_tangent, tensors)):  # noqa: SLF001
        raise _refused("given a dual tensor of forward-mode automatic differentiation")


def refuse_batched(*gradients: Tensor | None) -> None:
    """refuse_transforms for what comes to a backward pass."""
    refuse_transforms(*gradients)
    for gradient in gradients:
        if gradient is not None and is_legacy_batchedtensor(gradient):
            raise _refused("given a batch of gradients (is_grads_batched=True, vectorize=True)")


def _refused(why: str) -> UnsupportedError:
    return UnsupportedError(
        f"syncnorm.torch's batch normalization was {why}; expected tensors that are neither batched"
        " nor carry a tangent. Take derivatives, second ones too, with torch.autograd.grad, one"
        " gradient at a time, or put syncnorm.torch.revert_sync_batchnorm(model) in the model's"
        " place"
    )


def _has_tangent(tensor: Tensor | None) -> bool:
    if tensor is None:
        return False
    unpacked = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return unpacked.tangent is not None


def refuse_leaves(options: Options, *xs: Tensor) -> None:
    """ValueError where an x may not be overwritten, before any rank waits for another."""
    if options.in_place and any(x.is_leaf and wants_gradient(x) for x in xs):
        raise ValueError(
            "input: got a leaf that requires a gradient, which a layer with in_place=True would"
            " overwrite; expected the output of an operation, or a layer with in_place=False"
        )


def keep_values(
    ctx: Any, options: Options, xs: Sequence[Tensor], ys: Sequence[Tensor]
) -> Sequence[Tensor]:
    """What the core's backward pass reads as x of every shard: y where that has overwritten x."""
    if options.in_place:
        ctx.mark_dirty(*xs)
        return ys
    return xs


def kept_outputs(options: Options, y: Tensor, residual: Tensor | None) -> Tensors:
    """What to save of y: for the core's backward pass, and for the second derivative.

    Without a residual the core computes again from x what the activation was given. The second
    derivative needs y where the slope of the activation depends on more than the sign of y.
    """
    read = residual is not None and options.activation != "identity"
    # Detached: only the second one is differentiated.
    curved = options.activation == "elu" and not options.in_place
    return y.detach() if read else None, y if curved else None


def allocate_gradients(options: Options, shard: Backward, wanted: Sequence[bool]) -> None:
    """Room for those gradients of x, weight, bias and residual that are wanted."""
    shard.dx = _empty_if(wanted[0], shard.x)
    shard.dweight = _empty_if(wanted[1], shard.weight)
    shard.dbias = _empty_if(wanted[2], shard.bias)
    shard.dresidual = _empty_if(wanted[3] and options.activation != "identity", shard.x)


def gradients_of(shard: Backward, wanted: Sequence[bool]) -> Tensors:
    """The gradients of x, weight, bias and residual, once they are written."""
    through = shard.dy if shard.dresidual is None else shard.dresidual
    return shard.dx, shard.dweight, shard.dbias, through if wanted[3] else None


def _empty_if(wanted: bool, model: Tensor | None) -> Tensor | None:
    return torch.empty_like(model) if wanted and model is not None else None


class Recorded(Protocol):
    """A recorded forward pass of one shard, as its backward passes need it."""

    options: Options

    @property
    def synchronized(self) -> bool:
        """Whether other ranks take part."""

    def backward(self, shard: Backward) -> None:
        """Write the gradients that the shard has room for."""

    def second_backward(
        self, shard: Backward, cotangents: Cotangents, bent: Tensor | None
    ) -> Derivatives:
        """second_order.backward for this shard."""


def shard_gradients(
    recorded: Recorded, wanted: Sequence[bool], dy: Tensor, saved: Sequence[Any]
) -> Tensors:
    """The gradients of x, weight, bias and residual that are wanted; differentiable once more.

    saved: x, weight, bias, saved, mask, and both of kept_outputs.
    """
    refuse_batched(dy)
    if not torch.is_grad_enabled():
        return _gradients(recorded, wanted, dy, *saved)
    first = partial(_gradients, recorded, wanted)
    return differentiable(first, partial(_second, recorded), recorded.synchronized, dy, *saved)


def _gradients(recorded: Recorded, wanted: Sequence[bool], *tensors: Any) -> Tensors:
    shard = shard_of(*tensors)
    allocate_gradients(recorded.options, shard, wanted)
    recorded.backward(shard)
    return gradients_of(shard, wanted)


def _second(recorded: Recorded, cotangents: Tensors, tensors: Sequence[Any]) -> Tensors:
    bent = tensors[-1]
    by = recorded.second_backward(shard_of(*tensors), Cotangents(*cotangents), bent)
    return by.dy, by.x, by.weight, None, None, None, None, by.y


def shard_of(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Tensor,
    mask: Tensor | None,
    y: Tensor | None,
    _bent: Tensor | None,
) -> Backward:
    """In one layout: that of x, which hooks on saved tensors may have changed."""
    x = dense(x)
    if y is not None:
        y = dense_like(y, x)
    return Backward(x, dense_like(dy, x), saved, weight, bias, mask, y)


def differentiable(first: First, second: Second, synchronized: bool, *tensors: Any) -> Tensors:
    """first(*tensors), which has a derivative: second.

    synchronized: whether other ranks take part in second, which this rank then joins, whatever it
    needs.
    """
    joined = ANCHOR if synchronized else None
    gradients: Tensors = _First.apply(  # type: ignore[no-untyped-call]
        first, second, joined, *tensors
    )
    return gradients


class _First(Function):
    @staticmethod
    def forward(
        ctx: Any, first: First, second: Second, _: Tensor | None, *tensors: Tensor | None
    ) -> Tensors:
        ctx.second = second
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return first(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Tensors:
        refuse_batched(*cotangents)
        second, tensors = ctx.second, ctx.saved_tensors
        if torch.is_grad_enabled():
            derivatives = _Second.apply(  # type: ignore[no-untyped-call]
                second, len(cotangents), *cotangents, *tensors
            )
        else:
            derivatives = second(cotangents, tensors)
        return None, None, None, *derivatives


class _Second(Function):
    """Second derivatives, recorded so that asking for the third is refused."""

    @staticmethod
    def forward(ctx: Any, second: Second, count: int, *tensors: Tensor | None) -> Tensors:
        return second(tensors[:count], tensors[count:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise UnsupportedError(
            "the third derivative of syncnorm.torch's batch normalization was asked for; expected"
            " first and second ones: do without create_graph=True where second derivatives are"
            " taken"
        )
