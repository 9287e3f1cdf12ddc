"""The phases as operators of torch, in the namespace syncnorm, with fakes and derivatives.

Compilers and exporters see them. Each takes tensors in the layouts of layout.py and the settings as
a string, and returns new tensors. total is None in a group of one. The all-reduce is between the
operators, so that a compiler that traces the derivative of normalize has it in its graph.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd, register_fake

from syncnorm import DesyncError, Options, _core
from syncnorm.settings import Settings, core_options

from . import kernels
from .all_reduce import all_reduce
from .kernels import NO_STATISTICS, Optional, Running, vector
from .layout import bump_versions, dense_like, int64_counter, statistic, write_back
from .stream import launch, take_disagreement

_LIBRARY = Library("syncnorm", "FRAGMENT")  # type: ignore[no-untyped-call]


def encoded(settings: Settings) -> str:
    """Return settings as operators take them: "eps=1e-05, momentum=0.1, weighting='count', ..."."""
    fields = zip(settings._fields, settings, strict=True)
    return ", ".join(f"{name}={_constant(value)!r}" for name, value in fields)


@lru_cache(maxsize=1024)
def decoded(text: str) -> Options:
    """Return the core's options for encoded settings.

    A field that is missing, because it is younger than an exported program, has its default.

    Raises:
        InvalidArgumentError: A value that the core does not know.
    """
    call = ast.parse(f"Settings({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    fields = {str(field.arg): ast.literal_eval(field.value) for field in call.keywords}
    return core_options(Settings(**fields))


def _constant(value: Any) -> Any:
    """Return the value, also of a number that a compiler made symbolic because it had changed."""
    if not (isinstance(value, float) and torch.compiler.is_compiling()):
        return value
    from torch.fx.experimental.symbolic_shapes import guard_scalar  # takes long to import

    return guard_scalar(value)


def _operator(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes a function an operator on every device.

    torch.library.custom_op does the same, but a call of its operators takes five times as long.
    fake takes the same arguments and returns results of the same shapes, dtypes and strides.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        name = schema.partition("(")[0]
        tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)
        library: Any = _LIBRARY  # its methods have no types
        library.define(schema, tags=tags)
        library.impl(name, function, "CompositeExplicitAutograd")
        register_fake(f"syncnorm::{name}", fake, lib=_LIBRARY)
        return getattr(torch.ops.syncnorm, name).default

    return decorate


def _sizes(x: Tensor, settings: str) -> _core.Sizes:
    """Return the lengths of wires and saved, also for a fake x or a symbolic batch size."""
    channels, dtype = int(x.shape[1]), str(x.dtype).removeprefix("torch.")
    return _core.sizes(_core.Array(0, (1, channels), (channels, 1), dtype), decoded(settings))


def _empty_like(x: Tensor) -> Tensor:
    # empty_like of a fake x may have other strides than that of x, for axes of one element.
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def _fake_moments(x: Tensor, settings: str, *_: Any) -> list[Tensor]:
    sizes = _sizes(x, settings)
    lengths = [sizes.wire, x.shape[1]] if sizes.center_wire else [sizes.wire]
    return [vector(x, length) for length in lengths]


def _fake_center(x: Tensor, settings: str, *_: Any) -> Tensor:
    return vector(x, _sizes(x, settings).center_wire)


def _fake_output(x: Tensor, settings: str, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_like(x), vector(x, _sizes(x, settings).saved)


def _fake_grad_moments(x: Tensor, settings: str, *_: Any) -> Tensor:
    return vector(x, _sizes(x, settings).grad_wire)


def _fake_gradients(
    x: Tensor, _: str, wanted: Sequence[bool], weight: Optional, bias: Optional, *__: Any
) -> tuple[Tensor, ...]:
    models = zip((x, weight, bias, x), wanted, strict=True)
    return _four(_empty_like(y) if is_wanted and y is not None else None for y, is_wanted in models)


def _four(gradients: Any) -> tuple[Tensor, ...]:
    """Return the gradients, with an empty tensor for None, since an operator returns tensors.

    It is on the CPU, wherever x is: it may be the gradient of GRAD_DUMMY.
    """
    nothing = torch.empty(0, dtype=torch.float64, device="cpu")
    return tuple(nothing.clone() if each is None else each for each in gradients)


@_operator(
    "moments(Tensor x, str settings, Tensor? mask, int tag, Tensor? weight=None,"
    " Tensor? bias=None, Tensor? residual=None) -> Tensor[]",
    _fake_moments,
)
def moments(x: Tensor, settings: str, mask: Optional, tag: int, *checked: Optional) -> list[Tensor]:
    """Return this rank's wire and, where centering is on, the variances that center reads.

    weight, bias and residual are those of normalize, and are validated only.
    """
    if (text := take_disagreement(x)) is not None:
        raise DesyncError(text)
    options = decoded(settings)
    arguments = launch(x, options)
    arguments |= dict(zip(("weight", "bias", "residual"), checked, strict=False))
    wire, local_var = kernels.moments(options, x, mask, tag, arguments)
    return [wire] if local_var is None else [wire, local_var]


@_operator(
    "center(Tensor x, str settings, Tensor wire, Tensor? total, Tensor local_var, int group_size,"
    " int tag) -> Tensor",
    _fake_center,
)
def center(x: Tensor, settings: str, wire: Tensor, total: Optional, *others: Any) -> Tensor:
    return kernels.center(decoded(settings), x, wire, _other(wire, total), *others)


@_operator(
    "normalize(Tensor x, str settings, Tensor wire, Tensor? total, Tensor? center_total,"
    " Tensor? weight, Tensor? bias, Tensor? residual, Tensor? mask, Tensor? grad_dummy,"
    " int group_size, str group, int tag) -> (Tensor, Tensor)",
    _fake_output,
)
def normalize(
    x: Tensor, settings: str, wire: Tensor, total: Optional, *others: Any
) -> tuple[Tensor, Optional]:
    """Return y and saved. mask, GRAD_DUMMY and group are for the backward pass alone."""
    options, y = decoded(settings), torch.empty_like(x)
    center_total, weight, bias, residual, _, _, size, _, tag = others
    given = (weight, bias, residual, NO_STATISTICS, y, True)
    arguments = kernels.forward_arguments(options, x, *given)
    sums = (wire, _other(wire, total), center_total)
    kernels.normalize(options, x, *sums, size, tag, arguments)
    return y, arguments["saved"]


@_operator(
    "update_running(Tensor x, str settings, Tensor wire, Tensor? total, Tensor? center_total,"
    " Tensor(a!) running_mean, Tensor(b!) running_var, Tensor(c!)? num_batches_tracked,"
    " int group_size, int tag) -> ()",
    lambda *_: None,
)
def update_running(x: Tensor, settings: str, wire: Tensor, total: Optional, *others: Any) -> None:
    """Update the running statistics in place, except inside a backward pass, as in eager mode."""
    if torch._C._current_graph_task_id() != -1:  # noqa: SLF001
        return
    center_total, mean, var, count, size, tag = others
    sums, given = (wire, _other(wire, total), center_total), Running(mean, var, count)
    running = _statistics(mean, var, int64_counter(count, x))
    kernels.update_running(decoded(settings), x, *sums, running, size, tag)
    write_back(running, given)
    bump_versions(*given)


@_operator(
    "grad_moments(Tensor x, str settings, Tensor dy, Tensor saved, Tensor? weight, Tensor? bias,"
    " Tensor? y, int tag) -> Tensor",
    _fake_grad_moments,
)
def grad_moments(x: Tensor, settings: str, *others: Any) -> Tensor:
    if (text := take_disagreement(x)) is not None:
        raise DesyncError(text)
    (dy, saved, weight, bias, y, tag), options = others, decoded(settings)
    arguments = launch(x, options) | {"weight": weight, "bias": bias, "y": y}
    return kernels.grad_moments(options, x, dy, saved, tag, arguments)


@_operator(
    "grad_input(Tensor x, str settings, bool[] wanted, Tensor? weight, Tensor? bias, Tensor dy,"
    " Tensor saved, Tensor wire, Tensor? total, Tensor? mask, Tensor? y, int group_size, int tag)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_gradients,
)
def grad_input(x: Tensor, settings: str, *others: Any) -> tuple[Tensor, ...]:
    wanted, weight, bias, dy, saved, wire, total, mask, y, size, tag = others
    options = decoded(settings)
    arguments = kernels.backward_arguments(options, x, wanted, weight, bias, y, mask)
    kernels.grad_input(options, x, dy, saved, wire, _other(wire, total), size, tag, arguments)
    return _four(kernels.gradients(arguments))


@_operator(
    "infer(Tensor x, str settings, Tensor running_mean, Tensor running_var, Tensor? weight,"
    " Tensor? bias, Tensor? residual) -> (Tensor, Tensor)",
    _fake_output,
)
def infer(
    x: Tensor, settings: str, mean: Tensor, var: Tensor, *others: Any
) -> tuple[Tensor, Optional]:
    y = torch.empty_like(x)
    given = (_statistics(mean, var, is_updated=False), *others, y, True)
    return y, kernels.infer(decoded(settings), x, *given)


@_operator(
    "infer_backward(Tensor x, str settings, bool[] wanted, Tensor? weight, Tensor? bias, Tensor dy,"
    " Tensor saved, Tensor? y) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_gradients,
)
def infer_backward(x: Tensor, settings: str, *others: Any) -> tuple[Tensor, ...]:
    return _four(kernels.infer_backward(decoded(settings), x, *others))


def _statistics(
    mean: Tensor, var: Tensor, counter: Optional = None, is_updated: bool = True
) -> Running:
    """Return the running statistics as the core takes them."""
    running_mean = statistic(mean, "running_mean", is_updated)
    return Running(running_mean, statistic(var, "running_var", is_updated), counter)


def _other(wire: Tensor, total: Optional) -> Tensor:
    """Return the total; the core reads it and the wire from different memory."""
    return wire.clone() if total is None else total


def gradients_by(
    operator: Callable[..., tuple[Tensor, ...]],
    identity: bool,
    x: Tensor,
    settings: str,
    wanted: Sequence[bool],
    weight: Optional,
    bias: Optional,
    dy: Tensor,
    *others: Any,
) -> tuple[Tensor, kernels.Gradients]:
    """Return the first result of grad_input or infer_backward, and the gradients that are wanted.

    identity: There is no activation; the residual's gradient is then dy.
    """
    of_x, of_weight, of_bias, of_residual = wanted
    to_make = [of_x, of_weight and weight is not None, of_bias and bias is not None]
    to_make.append(of_residual and not identity)
    made = operator(x, settings, to_make, weight, bias, dy, *others)
    pairs = zip(made, to_make, strict=True)
    dx, dweight, dbias, dresidual = [each if is_made else None for each, is_made in pairs]
    return made[0], (dx, dweight, dbias, dy if identity and of_residual else dresidual)


def _save_for_normalize(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    x, settings, _, _, _, weight, bias, residual, mask, _, *ctx.call = inputs
    _save(ctx, settings, residual, (x, weight, bias, mask), output)


def _save_for_infer(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    x, settings, _, _, weight, bias, residual = inputs
    _save(ctx, settings, residual, (x, weight, bias, None), output)


def _save(ctx: Any, settings: str, residual: Optional, given: Any, output: Any) -> None:
    options, (x, *others), (y, saved) = decoded(settings), given, output
    ctx.mark_non_differentiable(saved)
    ctx.settings, ctx.identity = settings, options.activation == "identity"
    # Without a residual the core's backward pass computes y again.
    read = None if residual is None or ctx.identity else y.detach()
    ctx.save_for_backward(y if options.in_place else x, *others, saved, read)


def _normalize_backward(ctx: Any, dy: Tensor, _: Optional) -> tuple[Any, ...]:
    x, weight, bias, mask, saved, y = ctx.saved_tensors
    (size, group, tag), need = ctx.call, ctx.needs_input_grad
    wanted = need[0], need[5], need[6], need[7]
    dy = dense_like(dy, x)
    wire = grad_moments(x, ctx.settings, dy, saved, weight, bias, y, tag)
    total = all_reduce(wire, group) if group else None
    given = (x, ctx.settings, wanted, weight, bias, dy, saved, wire, total, mask, y, size, tag)
    first, (dx, dweight, dbias, dresidual) = gradients_by(grad_input, ctx.identity, *given)
    # With GRAD_DUMMY nothing is wanted, and its gradient is an empty result of the last operator,
    # so that a compiler does not drop the all-reduce.
    dummy = first if need[9] else None
    return dx, None, None, None, None, dweight, dbias, dresidual, None, dummy, None, None, None


def _infer_backward(ctx: Any, dy: Tensor, _: Optional) -> tuple[Any, ...]:
    x, weight, bias, _, saved, y = ctx.saved_tensors
    need = ctx.needs_input_grad
    wanted = need[0], need[4], need[5], need[6]
    given = (x, ctx.settings, wanted, weight, bias, dense_like(dy, x), saved, y)
    _, (dx, dweight, dbias, dresidual) = gradients_by(infer_backward, ctx.identity, *given)
    return dx, None, None, None, dweight, dbias, dresidual


register_autograd("syncnorm::normalize", _normalize_backward, setup_context=_save_for_normalize)
register_autograd("syncnorm::infer", _infer_backward, setup_context=_save_for_infer)
