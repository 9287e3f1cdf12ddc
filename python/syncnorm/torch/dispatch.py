"""Choose which path computes a call: eager, operators (compilers, fake tensors), or DTensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat, distributed, nn, no_grad, split, stack, strided

# Private, but there is no fast public way, and torch's own code uses them.
from torch._C import _is_tracing, _len_torch_dispatch_stack
from torch.compiler import is_dynamo_compiling
from torch.overrides import (
    handle_torch_function,
    has_torch_function,
    has_torch_function_unary,
)

from syncnorm import ArgumentTypeError, Communicator, InvalidArgumentError

from . import tracing
from .call import Affine, Call
from .eager import batch_norm as eager
from .eager.autograd import may_transform, refuse_transforms
from .groups.process_group import ALONE, Group
from .groups.resolve import resolve, torch_group
from .ops.kernels import Running
from .ops.layout import (
    canonical_mask,
    check_input,
    check_tensor,
    dense,
    dense_like,
    is_tracing,
    on_device_of,
    residual_like,
    resolved,
)

_NO_TORCH_FUNCTION = nn.Parameter.__torch_function__

# The classes that need no separate path; subclasses of Parameter are added by their first call.
_PLAIN = {Tensor, nn.Parameter, type(None)}


def batch_norm(input: Tensor, call: Call) -> Tensor:
    """Return activation(batch_norm(input) + residual), of input's shape, dtype and layout."""
    (weight, bias), (mean, var, count) = call.affine, call.running
    if not call.training and (mean is None or var is None):
        raise InvalidArgumentError(
            "running_mean and running_var: got None, needed where training is False"
        )
    if not (
        type(input) in _PLAIN
        and type(weight) in _PLAIN
        and type(bias) in _PLAIN
        and type(mean) in _PLAIN
        and type(var) in _PLAIN
        and type(count) in _PLAIN
    ):
        return _batch_norm_of_subclass(input, call)
    if (
        is_dynamo_compiling()
        or not (input.is_cpu or input.is_cuda)
        or (_len_torch_dispatch_stack() > 0 and _make_fx_traces())
        or (call.mask is not None and call.training and _differs_by_channel(call.mask, input))
    ):
        return _batch_norm_of_operators(input, call)
    if _is_tracing():
        return tracing.batch_norm(input, call)
    if may_transform():
        refuse_transforms(input, weight, bias, call.residual)
    if input.layout is not strided or input.is_neg():
        input = resolved(input)
    x = input if input.is_contiguous() else dense(input)
    residual, mask = call.residual, None
    if residual is not None:
        if type(residual) not in _PLAIN and has_torch_function_unary(residual):
            tracing.refuse_proxy(residual)
            wrapped: Tensor = handle_torch_function(batch_norm, (residual,), input, call)
            return wrapped
        residual = residual_like(_plain(residual, "residual"), input, x)
    if call.training and call.mask is not None:
        mask = canonical_mask(_plain(call.mask, "mask"), x)
    group = resolve(call.group if call.training else ALONE, call.name, call.timeout, call.number)
    return eager.batch_norm((x,), (residual,), (mask,), call, group)[0]


def _batch_norm_of_subclass(input: Tensor, call: Call) -> Tensor:
    """Return batch_norm where the input, a parameter or a statistic is of a subclass of Tensor."""
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    vectors = (*call.affine, *call.running)
    for name, tensor in zip(names, vectors, strict=True):
        if tensor is not None:
            check_tensor(tensor, f"{name}: ")
    if _any_dtensor(input, call.affine[0], call.running[0]):
        # Importing DTensor takes seconds. Here the user has done so already.
        from .groups import dtensor

        if call.group is not None and not isinstance(call.group, Group | Communicator):
            call = call._replace(group=torch_group(call.group))
        local, local_call, wrap = dtensor.localize(input, call)
        return wrap(batch_norm(local, local_call))
    tensors = (input, *vectors)
    if not is_dynamo_compiling() and has_torch_function(tensors):
        wrapped: Tensor = handle_torch_function(batch_norm, tensors, input, call)
        return wrapped
    kinds: set[Any] = {type(tensor) for tensor in tensors} - _PLAIN
    if is_dynamo_compiling() or any(
        kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ for kind in kinds
    ):  # fake tensors
        return _batch_norm_of_operators(input, call)
    for kind in kinds:
        if issubclass(kind, nn.Parameter) and kind.__torch_function__ is _NO_TORCH_FUNCTION:
            _PLAIN.add(kind)
    # Other subclasses may have their own methods.
    x, weight, bias, *running = map(_plain, tensors, ("input", *names))
    return batch_norm(x, call._replace(affine=Affine(weight, bias), running=Running(*running)))


def _differs_by_channel(mask: Any, input: Tensor) -> bool:
    # The comparison of shapes comes last: exporters take it for a promise on dynamic sizes.
    if not isinstance(mask, Tensor) or mask.dim() != input.dim() or mask.shape[1] == 1:
        return False
    return mask.shape == input.shape


def _batch_norm_by_channel(input: Tensor, call: Call) -> Tensor:
    """Return batch_norm with a mask of input's shape: a call, and an all-reduce, per channel."""
    mean, var, count = call.running
    nothing = [None] * input.shape[1]
    # A batch counts once: each channel increments a copy.
    counts = [] if count is None else [count.clone() for _ in nothing]
    vectors: tuple[Tensor | None, ...] = (*call.affine, mean, var)
    columns: tuple[Tensor | None, ...] = (input, call.residual, call.mask)
    parts = [None if each is None else split(each, 1) for each in vectors]
    parts += [None if each is None else split(each, 1, 1) for each in columns]
    names = ("weight", "bias", "running_mean", "running_var", "input", "residual", "mask")
    for name, part in zip(names, parts, strict=True):
        if part is not None and len(part) != len(nothing):
            raise InvalidArgumentError(f"{name}: got {len(part)} channels, expected {len(nothing)}")
    settings, outputs = call.settings._replace(in_place=False), []
    # An empty batch of one channel more: a DesyncError, before anything is written, if another rank
    # has another number of channels, or one mask for all.
    nobody = input.new_empty(0, len(nothing) + 1, *input.shape[2:])
    with no_grad():
        empty = Call(settings, True, group=call.group, name=call.name)
        batch_norm(nobody, empty._replace(number=call.number, timeout=call.timeout))
    for weight, bias, mean, var, x, residual, mask, counter in zip(
        *(each or nothing for each in parts), counts or nothing, strict=True
    ):
        affine, running = Affine(weight, bias), Running(mean, var, counter)
        one = call._replace(
            settings=settings, affine=affine, running=running, residual=residual, mask=mask
        )
        outputs.append(batch_norm(x, one))
    if count is not None:
        with no_grad():
            count.copy_(stack(counts).amax(0))
    return dense_like(cat(outputs, 1), dense(input))


def batch_norm_list(
    inputs: Sequence[Tensor], call: Call, residual: str = "residual", mask: str = "mask"
) -> list[Tensor]:
    """Return batch_norm for a list: in training one batch, with the statistics of all inputs.

    Args:
        inputs: Tensors (N, C, ...), which may be on different devices. In training the running
            statistics are on the device of the first.
        call: Its residual and mask are None or sequences with one item per input.
        residual, mask: What errors call them.

    Raises:
        InvalidArgumentError: The inputs do not form a batch, or in training the group has more than
            one rank.
    """
    if not isinstance(inputs, (list, tuple)):
        raise ArgumentTypeError(f"inputs: got {type(inputs).__name__}, expected a list of tensors")
    tensors = (*inputs, *call.affine, *call.running)
    if has_torch_function(tensors):
        wrapped: list[Tensor] = handle_torch_function(
            batch_norm_list, tensors, inputs, call, residual, mask
        )
        return wrapped
    tracing.check_list(call)
    _check_batch(inputs, {residual: call.residual, mask: call.mask})
    nothing = [None] * len(inputs)
    residuals = nothing if call.residual is None else call.residual
    masks = nothing if call.mask is None else call.mask
    if not call.training:
        return [
            batch_norm(
                x,
                call._replace(
                    residual=each,
                    mask=None,
                    affine=Affine(*on_device_of(x, *call.affine)),
                    running=Running(*on_device_of(x, *call.running[:2])),
                ),
            )
            for x, each in zip(inputs, residuals, strict=True)
        ]
    if resolve(call.group, call.name, call.timeout).synchronized:
        raise InvalidArgumentError(
            f"input: got a list of {len(inputs)} tensors in training with a process group of more"
            " than one rank; expected one tensor there (torch.cat joins those of one device), or a"
            " list in a process that has no group"
        )
    if may_transform():
        refuse_transforms(*inputs, *call.affine, *residuals)
    settings = call.settings
    if settings.grad_reduction == "local":  # one process has all gradients
        settings = settings._replace(grad_reduction="sum")
    for name, parameter in zip(("weight", "bias"), call.affine, strict=True):
        if parameter is not None:
            check_tensor(parameter, f"{name}: ")
    affine = Affine(*on_device_of(inputs[0], *call.affine))
    call = call._replace(settings=settings, affine=affine)
    xs, added, canonical = [], [], []
    for x, each, counted in zip(inputs, residuals, masks, strict=True):
        xs.append(dense(resolved(_plain(x, "input"))))
        added.append(residual_like(_plain(each, residual), x, xs[-1]))
        canonical.append(canonical_mask(on_device_of(x, _plain(counted, mask))[0], x))
    return list(eager.batch_norm(xs, added, canonical, call, Group(len(xs))))


def _plain(tensor: Any, name: str) -> Any:
    """Return a subclass's tensor as a torch.Tensor, since it may have other methods; or None."""
    if type(tensor) in _PLAIN:
        return tensor
    check_tensor(tensor, f"{name}: ")
    return tensor.as_subclass(Tensor)


def _check_batch(inputs: Sequence[Tensor], lists: dict[str, Any]) -> None:
    """Raise InvalidArgumentError unless these can be the shards of one batch."""
    if not inputs:
        raise InvalidArgumentError("inputs: got no tensor, expected at least one")
    for name, tensors in lists.items():
        if isinstance(tensors, Tensor):
            raise InvalidArgumentError(f"{name}: got one tensor, expected a list of {len(inputs)}")
        if tensors is not None and not isinstance(tensors, (list, tuple)):
            raise ArgumentTypeError(
                f"{name}: got {type(tensors).__name__}, expected a list of {len(inputs)}"
            )
        if tensors is not None and len(tensors) != len(inputs):
            raise InvalidArgumentError(
                f"{name}: got {len(tensors)}, expected {len(inputs)}, one per input"
            )
    first = inputs[0]
    for index, x in enumerate(inputs):
        check_input(x, f"inputs[{index}]: ")
        alike = is_tracing() or x.shape[1] == first.shape[1]
        if not alike or x.dtype != first.dtype:
            raise InvalidArgumentError(
                f"inputs[{index}]: got shape {tuple(x.shape)} and {x.dtype}, expected"
                f" {first.shape[1]} channels and {first.dtype} as in inputs[0]"
            )


def _any_dtensor(*tensors: Tensor | None) -> bool:
    # Not sys.modules: dynamo fails to iterate over it while a lazy module loads.
    module = getattr(distributed, "tensor", None)
    return module is not None and any(isinstance(tensor, module.DTensor) for tensor in tensors)


def _batch_norm_of_operators(input: Tensor, call: Call) -> Tensor:
    """Return batch_norm as dispatcher ops: for compilers, exporters, meta and fake tensors.

    With a mask of input's shape it is the operations of one call per channel.
    """
    if call.mask is not None and call.training and _differs_by_channel(call.mask, input):
        return _batch_norm_by_channel(input, call)
    # Importing torch's compiler takes long.
    from .ops import compiled

    return compiled.batch_norm(input, call)


def _make_fx_traces() -> bool:
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None
