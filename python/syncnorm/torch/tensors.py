"""What the core asks of tensors: dense layouts, masks, vectors of float64."""

from __future__ import annotations

import torch
from torch import Tensor

from syncnorm import Options


def is_channels_last(tensor: Tensor) -> bool:
    """Dense with the channels innermost, for any number of dimensions."""
    if tensor.dim() == 4:
        return tensor.is_contiguous(memory_format=torch.channels_last)
    if tensor.dim() == 5:
        return tensor.is_contiguous(memory_format=torch.channels_last_3d)
    return tensor.detach().movedim(1, -1).is_contiguous()


def _to_channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def prepared(input: Tensor, residual: Tensor | None) -> Tensor:
    """The input, checked and dense."""
    if input.dim() < 2:
        raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
    if not (input.is_cpu or input.is_cuda or input.is_meta):
        raise ValueError(f"input: got a tensor on {input.device}, expected one on cpu or cuda")
    if residual is not None:
        _check_residual(residual, input)
    return dense(input)


def _check_residual(residual: Tensor, input: Tensor) -> None:
    got = (tuple(residual.shape), residual.dtype, residual.device)
    expected = (tuple(input.shape), input.dtype, input.device)
    if got != expected:
        raise ValueError(
            "residual: got shape {}, {} on {}, expected the input's shape {}, {} on {}".format(
                *got, *expected
            )
        )


def check_channels(input: Tensor, expected: int, dimension: int = 1) -> None:
    """Raise ValueError unless input has so many channels."""
    if input.shape[dimension] != expected:
        raise ValueError(
            f"expected {expected} channels in dimension {dimension} (got {input.shape[dimension]}"
            f" in an input of shape {tuple(input.shape)})"
        )


def contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself where it is dense, else a dense copy in the layout its strides suggest."""
    if tensor.is_contiguous() or is_channels_last(tensor):
        return tensor
    channels_innermost = tensor.stride(1) == min(tensor.stride())
    return _to_channels_last(tensor) if channels_innermost else tensor.contiguous()


def dense_like(tensor: Tensor, model: Tensor) -> Tensor:
    """The tensor in the layout of model, which is dense; a copy only where they differ."""
    if model.is_contiguous():
        return tensor.contiguous()
    return tensor if is_channels_last(tensor) else _to_channels_last(tensor)


def canonical_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of shape (N, *spatial) or (N, 1, *spatial) as a dense one of shape (N, *spatial)."""
    expected = (x.shape[0], *x.shape[2:])
    got = tuple(mask.shape)
    if mask.dim() == x.dim() and got[1] == 1:
        mask = mask.squeeze(1)
    if tuple(mask.shape) != expected:
        with_channel = (expected[0], 1, *expected[1:])
        raise ValueError(
            f"mask: got shape {got}, expected {expected} or {with_channel}"
            f" for an input of shape {tuple(x.shape)}"
        )
    if mask.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"mask: got dtype {mask.dtype}, expected torch.bool or torch.uint8")
    return mask.contiguous()


def doubles(length: int, x: Tensor) -> Tensor:
    """A vector of float64, any content, where x is."""
    return x.new_empty(length, dtype=torch.float64)


def output_for(options: Options, x: Tensor) -> Tensor:
    """Where y is written: over x where that is asked for."""
    return x if options.in_place else torch.empty_like(x)


def announce_overwritten(x: Tensor, y: Tensor) -> None:
    """Tell autograd that x has become y, where it has, in a call that is not recorded."""
    if y is x and not x.is_inference():
        announce_written(x)


def announce_written(*tensors: Tensor | None) -> None:
    """Tell autograd that these tensors were changed through their pointers."""
    torch.autograd.graph.increment_version([t for t in tensors if t is not None])
