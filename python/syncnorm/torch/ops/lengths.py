"""Valid positions per sample, as a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack  # private: see dispatch.py
from torch.compiler import is_dynamo_compiling

from syncnorm import InvalidArgumentError

from .layout import check_input, check_tensor

_DTYPES = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}


def mask_of_lengths(lengths: Any, input: Any, mask: Any = None) -> Any:
    """Return the mask of the first lengths[n] positions of sample n along the last axis.

    Args:
        lengths: Integers (N,), on input's device or the CPU. Values are checked if they are on the
            CPU, in eager mode. Otherwise the check would have to wait for a device: values below 0
            count as 0, and those above the length of the axis as that length.
        input: (N, C, ..., L).
        mask: The caller's other argument, which must be None.

    For lists: one of lengths and one of inputs give a list.
    """
    if mask is not None:
        raise InvalidArgumentError("lengths: got a mask as well, expected one of them")
    if isinstance(input, (list, tuple)):
        if not isinstance(lengths, (list, tuple)) or len(lengths) != len(input):
            got = len(lengths) if isinstance(lengths, (list, tuple)) else type(lengths).__name__
            raise InvalidArgumentError(
                f"lengths: got {got}, expected a list of {len(input)}, one item per input"
            )
        pairs = zip(lengths, input, strict=True)
        return [None if each is None else mask_of_lengths(each, x) for each, x in pairs]
    _check(lengths, input)
    (count, _, *spatial) = input.shape
    positions = torch.arange(spatial[-1], device=input.device)
    # With non_blocking the host does not wait for the device.
    counted = positions < lengths.to(input.device, non_blocking=True).unsqueeze(1)
    return counted.view(count, *[1] * (len(spatial) - 1), spatial[-1]).expand(count, *spatial)


def _check(lengths: Tensor, input: Tensor) -> None:
    check_input(input)
    check_tensor(lengths, "lengths: ")
    shape, size = tuple(input.shape), input.shape[-1]
    if len(shape) < 3:
        raise InvalidArgumentError(
            f"lengths: got an input of shape {shape}, expected (N, C, ..., L), where the lengths"
            " count positions of the last axis"
        )
    if tuple(lengths.shape) != shape[:1] or lengths.dtype not in _DTYPES:
        raise InvalidArgumentError(
            f"lengths: got shape {tuple(lengths.shape)} and {lengths.dtype}, expected ({shape[0]},)"
            f" and an integer dtype for an input of shape {shape}"
        )
    if not lengths.is_cpu and lengths.device != input.device:
        raise InvalidArgumentError(
            f"lengths: got a tensor on {lengths.device}, expected {input.device} or cpu"
        )
    has_values = type(lengths) is Tensor and lengths.is_cpu
    if not has_values or is_dynamo_compiling() or _len_torch_dispatch_stack() > 0:
        return
    if ((lengths < 0) | (lengths > size)).any():
        raise InvalidArgumentError(
            f"lengths: got values from {lengths.min()} to {lengths.max()}, expected 0 to {size},"
            " the length of the input's last axis"
        )
