"""Batch normalization composed of operators, for compilers, exporters and tensors without memory.

Imported by the first call that needs it, since it imports torch's compiler.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.onnx import is_in_onnx_export

from syncnorm import Communicator, InvalidArgumentError
from syncnorm.settings import check_positive
from syncnorm.tags import constant_tag, layer_tag
from syncnorm.torch import tracing
from syncnorm.torch.call import Call
from syncnorm.torch.eager.autograd import GRAD_DUMMY, wants_gradient
from syncnorm.torch.groups.process_group import Group, TorchGroup
from syncnorm.torch.groups.relative import GroupSize, chosen_group
from syncnorm.torch.groups.resolve import resolve

from . import library as ops
from .all_reduce import all_reduce, group_name
from .layout import canonical_mask, check_input, contiguous, dense, residual_like


def batch_norm(input: Tensor, call: Call) -> Tensor:
    """Return dispatch.batch_norm(input, call).

    The tag of a call is a constant of the layer's name, since calls are not counted. An all-reduce
    takes at most the timeout of its process group.
    """
    if _exports_onnx():
        return tracing.batch_norm(input, call)
    check_input(input)
    x, weight, bias = dense(input), contiguous(call.affine[0]), contiguous(call.affine[1])
    residual = residual_like(call.residual, input, x)
    settings, (mean, var, count) = ops.encoded(call.settings), call.running
    y: Tensor
    if not call.training:
        y, _ = ops.infer(x, settings, mean, var, weight, bias, residual)
        return y
    check_positive(call.settings.eps)
    mask, tag = canonical_mask(call.mask, x), _tag_of(call.name)
    group, size = _group_of(call.group)
    dummy = None
    if torch.compiler.is_dynamo_compiling() and group and torch.is_grad_enabled():
        dummy = None if wants_gradient(x, weight, bias, residual) else GRAD_DUMMY
    # Of these phases normalize alone has a derivative, which takes account of the others.
    values = x.detach()
    checked = [None if each is None else each.detach() for each in (weight, bias, residual)]
    # Not an input of the first phase: a recomputation in backward would find them changed.
    for name, each in (("running_mean", mean), ("running_var", var)):
        if each is not None and each.shape != (x.shape[1],):
            raise InvalidArgumentError(
                f"{name}: got shape {tuple(each.shape)}, expected ({x.shape[1]},), one value per"
                " channel of the input"
            )
    wire, *local_var = ops.moments(values, settings, mask, tag, *checked)
    total = all_reduce(wire, group) if group else None
    center_total = None
    if local_var:
        center_wire = ops.center(values, settings, wire, total, *local_var, size, tag)
        center_total = all_reduce(center_wire, group) if group else center_wire
    totals = (wire, total, center_total)
    if mean is not None:
        ops.update_running(values, settings, *totals, mean, var, count, size, tag)
    others = (weight, bias, residual, mask, dummy)
    y, _ = ops.normalize(x, settings, *totals, *others, size, group, tag)
    return y


def _group_of(process_group: Any) -> tuple[str, int]:
    """Return the group's name for all_reduce, and its size; no name for one rank."""
    found: tuple[str, int]
    if isinstance(process_group, Communicator):
        found = _group_at(id(process_group))
        return found
    if isinstance(process_group, GroupSize):
        found = _group_described(None, process_group.size)
        return found
    if isinstance(process_group, str | list | tuple):
        found = _group_described(process_group, None)
        return found
    return _name_and_size(resolve(process_group))


def _name_and_size(group: Group) -> tuple[str, int]:
    if not isinstance(group, TorchGroup):
        return "", 1
    return str(group.process_group.group_name), group.size


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _group_described(process_group: Any, group_size: int | None) -> tuple[str, int]:
    """Return name and size of a group that dynamo cannot create: it calls this while it traces."""
    return _name_and_size(resolve(chosen_group(process_group, group_size)))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _group_at(address: int) -> tuple[str, int]:
    """Return name and size of the communicator with this id, which dynamo guards on.

    dynamo cannot trace this: it calls it and keeps the result. That of torch 2.10 does not pass
    the communicator itself.
    """
    communicator: Communicator = ctypes.cast(address, ctypes.py_object).value
    return (group_name(communicator), communicator.size) if communicator.size > 1 else ("", 1)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _exports_onnx() -> bool:
    return is_in_onnx_export()  # which dynamo takes for False


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tag_of(name: str | None) -> int:
    return constant_tag(layer_tag(name))
