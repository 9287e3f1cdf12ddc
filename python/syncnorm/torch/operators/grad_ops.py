"""The backward phases as operators of torch, and the derivatives that are made of them.

As in ops.py. The sum over the group stands between the operators, so that a compiler that traces
the derivative of normalize has the exchange in its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import register_autograd

from syncnorm.torch import bridge
from syncnorm.torch.autograd import kept_outputs
from syncnorm.torch.launch import raise_if_ranks_disagreed
from syncnorm.torch.tensors import dense_like, doubles

from . import ops
from .encoding import decoded
from .registration import operator
from .sums import summed

Four = tuple[Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _new_wire(x: Tensor, settings: str, *_: Any) -> Tensor:
    return doubles(ops.sizes(x, decoded(settings)).grad_wire, x)


@operator(fake=_new_wire)
def grad_moments(
    x: Tensor,
    settings: str,
    dy: Tensor,
    saved: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    y: Tensor | None,
    tag: int,
) -> Tensor:
    """The wire of this rank in backward."""
    raise_if_ranks_disagreed(x)
    options, wire = decoded(settings), _new_wire(x, settings)
    bridge.grad_moments(
        options,
        x,
        dy,
        saved,
        wire,
        weight=weight,
        bias=bias,
        y=y,
        tag=tag,
        **ops.launch(options, x),
    )
    return wire


def _new_gradients(
    x: Tensor,
    _: str,
    wanted: Sequence[bool],
    weight: Tensor | None,
    bias: Tensor | None,
    *__: Any,
) -> Four:
    """Of x, weight, bias and residual, and nothing for those that are not wanted.

    Nothing is an empty tensor on the CPU, wherever x is: it may be the gradient of an anchor.
    """

    def new(index: int, model: Tensor | None) -> Tensor:
        if wanted[index] and model is not None:
            return ops.empty_as(model)
        return torch.empty(0, dtype=torch.float64, device="cpu")

    return new(0, x), new(1, weight), new(2, bias), new(3, x)


@operator(fake=_new_gradients)
def grad_input(
    x: Tensor,
    settings: str,
    wanted: Sequence[bool],
    weight: Tensor | None,
    bias: Tensor | None,
    dy: Tensor,
    saved: Tensor,
    wire: Tensor,
    total: Tensor | None,
    mask: Tensor | None,
    y: Tensor | None,
    group_size: int,
    tag: int,
) -> Four:
    """The gradients of x, weight, bias and residual that are wanted."""
    options, made = decoded(settings), _new_gradients(x, settings, wanted, weight, bias)
    bridge.grad_input(
        options,
        x,
        dy,
        saved,
        group_size,
        wire,
        ops.another(wire, total),
        **_by_name(made, wanted),
        weight=weight,
        bias=bias,
        mask=mask,
        y=y,
        tag=tag,
        **ops.launch(options, x),
    )
    return made


@operator(fake=_new_gradients)
def infer_backward(
    x: Tensor,
    settings: str,
    wanted: Sequence[bool],
    weight: Tensor | None,
    bias: Tensor | None,
    dy: Tensor,
    saved: Tensor,
    y: Tensor | None,
) -> Four:
    """The gradients of x, weight, bias and residual that are wanted."""
    options, made = decoded(settings), _new_gradients(x, settings, wanted, weight, bias)
    bridge.infer_backward(
        options,
        x,
        dy,
        saved,
        **_by_name(made, wanted),
        weight=weight,
        bias=bias,
        y=y,
        **ops.launch(options, x),
    )
    return made


def _by_name(made: Four, wanted: Sequence[bool]) -> dict[str, Tensor]:
    named = zip(("dx", "dweight", "dbias", "dresidual"), made, wanted, strict=True)
    return {name: gradient for name, gradient, is_wanted in named if is_wanted}


def gradients_by(
    operator: Callable[..., Four],
    x: Tensor,
    settings: str,
    wanted: Sequence[bool],
    identity: bool,
    weight: Tensor | None,
    bias: Tensor | None,
    dy: Tensor,
    *others: Any,
) -> tuple[Four, Gradients]:
    """What one of the two operators above makes, and the gradients that are wanted from it.

    identity: whether there is no activation; the residual's gradient is dy then, and is not made.
    """
    to_make = [*wanted[:3], wanted[3] and not identity]
    made = operator(x, settings, to_make, weight, bias, dy, *others)
    dx, dweight, dbias, dresidual = (
        gradient if is_wanted else None for gradient, is_wanted in zip(made, wanted, strict=True)
    )
    return made, (dx, dweight, dbias, dy if identity and wanted[3] else dresidual)


def _keep_for_normalize(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    x, settings, _, _, _, weight, bias, residual, mask, _, *ctx.call = inputs
    _keep(ctx, settings, x, weight, bias, residual, mask, *output)


def _keep_for_infer(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    x, settings, _, _, weight, bias, residual = inputs
    _keep(ctx, settings, x, weight, bias, residual, None, *output)


def _keep(
    ctx: Any,
    settings: str,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    y: Tensor,
    saved: Tensor,
) -> None:
    options = decoded(settings)
    ctx.mark_non_differentiable(saved)
    ctx.settings, ctx.identity = settings, options.activation == "identity"
    kept, _ = kept_outputs(options, y, residual)
    values = y if options.in_place else x
    ctx.save_for_backward(values, weight, bias, saved, mask, kept)


def _normalize_backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, saved, mask, y = ctx.saved_tensors
    group_size, group, tag = ctx.call
    need = ctx.needs_input_grad
    wanted = need[0], need[5], need[6], need[7]
    dy = dense_like(dy, x)
    wire = grad_moments(x, ctx.settings, dy, saved, weight, bias, y, tag)
    made, gradients = gradients_by(
        grad_input,
        x,
        ctx.settings,
        wanted,
        ctx.identity,
        weight,
        bias,
        dy,
        saved,
        wire,
        summed(wire, group) if group else None,
        mask,
        y,
        group_size,
        tag,
    )
    dx, dweight, dbias, dresidual = gradients
    # Where there is an anchor nothing is wanted, and its gradient is such a nothing. That it comes
    # from the last operator keeps a compiler from dropping the exchange.
    danchor = made[0] if need[9] else None
    return dx, None, None, None, None, dweight, dbias, dresidual, None, danchor, None, None, None


def _infer_backward(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    x, weight, bias, saved, _, y = ctx.saved_tensors
    need = ctx.needs_input_grad
    wanted = need[0], need[4], need[5], need[6]
    dy = dense_like(dy, x)
    _made, gradients = gradients_by(
        infer_backward, x, ctx.settings, wanted, ctx.identity, weight, bias, dy, saved, y
    )
    dx, dweight, dbias, dresidual = gradients
    return dx, None, None, None, dweight, dbias, dresidual


register_autograd("syncnorm::normalize", _normalize_backward, setup_context=_keep_for_normalize)
register_autograd("syncnorm::infer", _infer_backward, setup_context=_keep_for_infer)
