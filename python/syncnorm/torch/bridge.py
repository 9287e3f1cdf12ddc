"""The core's functions, taking torch tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from syncnorm import _core


def _view(value: Any) -> Any:
    """A tensor as the pointer, shape, strides, dtype and device that the core reads."""
    if not isinstance(value, torch.Tensor):
        return value
    return _core.Array(
        value.data_ptr(),
        tuple(value.shape),
        value.stride(),
        str(value.dtype).removeprefix("torch."),
        value.device.type,
        value.device.index or 0,
    )


def _through_views(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_view, args), **{name: _view(arg) for name, arg in kwargs.items()})

    return call


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


# torch 2.10 and newer hand their tensors over through DLPack's C exchange API, at no cost.
_taking_tensors = _as_is if hasattr(torch.Tensor, "__dlpack_c_exchange_api__") else _through_views

sizes = _taking_tensors(_core.sizes)
moments = _taking_tensors(_core.moments)
center = _taking_tensors(_core.center)
update_running = _taking_tensors(_core.update_running)
normalize = _taking_tensors(_core.normalize)
grad_moments = _taking_tensors(_core.grad_moments)
grad_input = _taking_tensors(_core.grad_input)
infer = _taking_tensors(_core.infer)
infer_backward = _taking_tensors(_core.infer_backward)
forward = _taking_tensors(_core.forward)
backward = _taking_tensors(_core.backward)
sum_over = _taking_tensors(_core.Communicator.sum)
