"""Tensors in the layouts that the core reads: dense inputs, contiguous vectors and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from syncnorm import ArgumentTypeError, InvalidArgumentError

_INTEGERS = {torch.int8, torch.int16, torch.int32, torch.uint8}
_MASK_DTYPES = (torch.bool, torch.uint8)


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether the tensor is dense with its channels innermost, for any number of axes."""
    if tensor.dim() == 4:
        return tensor.is_contiguous(memory_format=torch.channels_last)
    if tensor.dim() == 5:
        return tensor.is_contiguous(memory_format=torch.channels_last_3d)
    return tensor.detach().movedim(1, -1).is_contiguous()


def check_tensor(value: object, name: str = "") -> None:
    """Raise ArgumentTypeError unless value is a tensor; name: prefix of the error."""
    if not isinstance(value, Tensor):
        raise _not_a_tensor(value, name)


def check_flag(value: object, name: str) -> None:
    """Raise ArgumentTypeError unless value is a bool, or 0 or 1."""
    if not isinstance(value, int) or value not in (0, 1):
        raise ArgumentTypeError(f"{name}: got {value!r}, expected True or False")


def check_input(input: Tensor, name: str = "") -> None:
    """Raise unless input is a CPU, CUDA or meta tensor (N, C, ...); name: prefix of the error."""
    if not isinstance(input, Tensor):
        raise _not_a_tensor(input, name)
    if input.dim() < 2:
        raise InvalidArgumentError(f"{name}expected at least 2D input (got {input.dim()}D input)")
    if not (input.is_cpu or input.is_cuda or input.is_meta):
        raise InvalidArgumentError(
            f"{name or 'input: '}got a tensor on {input.device}, expected one on cpu or cuda"
        )
    check_strided(input, name)


def check_strided(tensor: Tensor, name: str = "") -> None:
    """Raise InvalidArgumentError for a tensor without plain strided memory; name: prefix."""
    if is_dynamo_compiling():  # cannot trace the attribute in a backward pass
        return
    if tensor.is_nested:
        got, remedy = "a nested tensor", "torch.nested.to_padded_tensor(tensor, 0.0) and a mask"
    elif tensor.layout is not torch.strided:
        got, remedy = f"a tensor with the layout {tensor.layout}", "tensor.to_dense()"
    elif tensor.is_quantized:
        got, remedy = f"a quantized tensor ({tensor.dtype})", "tensor.dequantize()"
    else:
        return
    raise InvalidArgumentError(
        f"{name or 'input: '}got {got}, expected a dense one of torch.strided: pass {remedy}"
    )


def resolved(tensor: Tensor, name: str = "") -> Tensor:
    """Return a tensor that is not lazily negated; raise as check_strided."""
    check_strided(tensor, name)
    return tensor if is_dynamo_compiling() else tensor.resolve_neg()


def _not_a_tensor(value: object, name: str) -> ArgumentTypeError:
    got = type(value).__name__
    return ArgumentTypeError(f"{name or 'input: '}got {got}, expected a torch.Tensor")


def is_tracing() -> bool:
    """Return whether torch.jit traces: sizes are tensors then, and no `if` may read them."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return tracing


def check_channels(input: Tensor, expected: int, dimension: int = 1) -> None:
    """Raise unless input is as check_input asks and has `expected` channels."""
    check_input(input)
    if is_tracing():
        return
    if input.shape[dimension] != expected:
        raise InvalidArgumentError(
            f"expected {expected} channels in dimension {dimension} (got {input.shape[dimension]}"
            f" in an input of shape {tuple(input.shape)})"
        )


def residual_like(residual: Tensor | None, input: Tensor, x: Tensor) -> Tensor | None:
    """Return the residual of `input` in the layout of x, the dense input."""
    if residual is None:
        return None
    residual = resolved(residual, "residual: ")
    got = (tuple(residual.shape), residual.dtype, residual.device)
    expected = (tuple(input.shape), input.dtype, input.device)
    if got != expected:
        hint = "; pass a mask as mask=" if residual.dtype in _MASK_DTYPES else ""
        raise InvalidArgumentError(
            "residual: got shape {}, {} on {}, expected the input's shape {}, {} on {}{}".format(
                *got, *expected, hint
            )
        )
    return dense_like(residual, x)


def contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor if it is dense, else a dense copy in the layout its strides suggest."""
    if tensor.is_contiguous() or is_channels_last(tensor):
        return tensor
    channels_innermost = tensor.stride(1) == min(tensor.stride())
    return _to_channels_last(tensor) if channels_innermost else tensor.contiguous()


def dense_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return the tensor in the layout of model, which is dense; copy only if they differ."""
    if model.is_contiguous():
        return tensor.contiguous()
    return tensor if is_channels_last(tensor) else _to_channels_last(tensor)


def _to_channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def canonical_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Return a mask (N, *spatial) or (N, 1, *spatial) as a contiguous one (N, *spatial)."""
    if mask is None:
        return None
    mask = resolved(mask, "mask: ")
    expected = (x.shape[0], *x.shape[2:])
    got = tuple(mask.shape)
    if mask.dim() == x.dim() and got[1] == 1:
        mask = mask.squeeze(1)
    if tuple(mask.shape) != expected:
        with_channel = (expected[0], 1, *expected[1:])
        raise InvalidArgumentError(
            f"mask: got shape {got}, expected {expected} or {with_channel}"
            f" for an input of shape {tuple(x.shape)}"
        )
    if mask.dtype not in _MASK_DTYPES:
        raise InvalidArgumentError(
            f"mask: got dtype {mask.dtype}, expected torch.bool or torch.uint8, True or 1 where a"
            " position counts; pass mask.bool() for a mask of ones and zeros, (mask == 0) for one"
            " that is added to scores, and ~key_padding_mask, as that is True at padding"
        )
    return mask.contiguous()


def on_device_of(x: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    """Return the tensors on x's device, as operations that autograd records."""
    return [None if tensor is None else tensor.to(x.device) for tensor in tensors]


def int64_counter(count: Tensor | None, x: Tensor) -> Tensor | None:
    """Return num_batches_tracked, or a copy as int64 if it has another dtype of real numbers."""
    if count is None or count.dtype == torch.int64:
        return count
    number = count.is_floating_point() or count.dtype in _INTEGERS
    if not number or count.layout is not torch.strided or count.is_meta:
        raise InvalidArgumentError(
            f"num_batches_tracked: got {count.dtype} and {count.layout} on {count.device}, expected"
            " one number, as in torch.tensor(0)"
        )
    return count.detach().to(x.device, torch.int64)


def statistic(tensor: Tensor | None, name: str, is_updated: bool = True) -> Tensor | None:
    """Return a running statistic, or a copy if it is not contiguous or lazily negated."""
    if tensor is None or (tensor.is_contiguous() and not tensor.is_neg()):
        return tensor
    vector = resolved(tensor, f"{name}: ").detach().contiguous()
    if is_updated and 0 in tensor.stride():
        raise InvalidArgumentError(
            f"{name}: got strides {tensor.stride()}, expected memory for every value: pass"
            f" {name}.clone()"
        )
    return vector


def write_back(updated: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> None:
    """Write mean, var and num_batches_tracked that were updated in copies to those that were given.

    A counter gets the increment: it may be a fraction, as an average of counters is.
    """
    (*statistics, counter), (*vectors, count) = updated, given
    with torch.no_grad():
        for new, old in zip(statistics, vectors, strict=True):
            if new is not None and old is not None and new is not old:
                old.copy_(new)
        if counter is not None and count is not None and counter is not count:
            count += (counter - count.to(counter)).to(count.device)


def bump_versions(*tensors: Tensor | None) -> None:
    """Bump the version counters of tensors that the core wrote through their pointers."""
    written = []
    for tensor in tensors:
        if tensor is not None:
            written.append(tensor)  # noqa: PERF401 - on the hot path
    torch.autograd.graph.increment_version(written)
