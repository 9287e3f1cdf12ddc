"""Batch normalization composed of operators, which compilers and exporters see.

What synchronized.py and frozen.py do, while it is compiled or exported, and for tensors without
memory of their own to point to: those on the meta device, fake ones, other subclasses of Tensor.
Imported by the first of these, as it imports torch's compiler, which takes long.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from syncnorm import Communicator
from syncnorm.settings import constant_tag
from syncnorm.torch.anchor import ANCHOR
from syncnorm.torch.autograd import wants_gradient
from syncnorm.torch.group import TorchGroup
from syncnorm.torch.options import Settings
from syncnorm.torch.resolve import resolve
from syncnorm.torch.tensors import canonical_mask, contiguous, dense_like, prepared

from . import ops
from .encoding import encoded
from .sums import name_of, summed


def normalize(
    settings: Settings,
    process_group: Any,
    name: str | None,
    x: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
) -> Tensor:
    """The layer in training. Running statistics are updated where they are given.

    Calls are not counted: their tag is a constant of the layer's name. A sum may take as long as
    its group says.
    """
    x, weight, bias = prepared(x, residual), contiguous(weight), contiguous(bias)
    residual = None if residual is None else dense_like(residual, x)
    mask = None if mask is None else canonical_mask(mask, x)
    text, tag = encoded(settings), _tag_of(name)
    group, size = _group_of(process_group)
    anchor = None
    if torch.compiler.is_dynamo_compiling() and group and torch.is_grad_enabled():
        anchor = None if wants_gradient(x, weight, bias, residual) else ANCHOR
    # Of these phases normalize alone has a derivative, which takes account of the others.
    values = x.detach()
    wire, *local_var = ops.moments(values, text, mask, tag)
    total = summed(wire, group) if group else None
    center_total = None
    if local_var:
        center_wire = ops.center(values, text, wire, total, *local_var, size, tag)
        center_total = summed(center_wire, group) if group else center_wire
    totals = (wire, total, center_total)
    if running_mean is not None:
        running = (running_mean, running_var, num_batches_tracked)
        ops.update_running(values, text, *totals, *running, size, tag)
    tensors = (weight, bias, residual, mask, anchor)
    y: Tensor = ops.normalize(x, text, *totals, *tensors, size, group, tag)[0]
    return y


def infer(
    settings: Settings,
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """The layer in evaluation. No rank talks to another."""
    x, weight, bias = prepared(x, residual), contiguous(weight), contiguous(bias)
    residual = None if residual is None else dense_like(residual, x)
    statistics = (running_mean, running_var)
    y: Tensor = ops.infer(x, encoded(settings), *statistics, weight, bias, residual)[0]
    return y


def _group_of(process_group: Any) -> tuple[str, int]:
    """The name by which sums.summed finds the group, and its size; no name where it is of one."""
    if isinstance(process_group, Communicator):
        name, size = _group_at(id(process_group))
        return name, size
    if process_group is None and not (dist.is_available() and dist.is_initialized()):
        return "", 1
    group = resolve(process_group)
    if not isinstance(group, TorchGroup):
        return "", 1
    return str(group.process_group.group_name), group.size


# What dynamo cannot look into: it calls these itself and keeps the result.


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _group_at(address: int) -> tuple[str, int]:
    """That of the communicator with this id, which the caller holds and dynamo has a guard on.

    The communicator itself is more than the dynamo of torch 2.10 passes to such a function.
    """
    communicator: Communicator = ctypes.cast(address, ctypes.py_object).value
    return (name_of(communicator), communicator.size) if communicator.size > 1 else ("", 1)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tag_of(name: str | None) -> int:
    return constant_tag(name)
