"""Batch normalization of DTensors: each rank normalizes its shard with the statistics of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from syncnorm import Communicator

from . import entry
from .options import Settings
from .rank_groups import groups_of
from .resolve import ALONE, torch_group
from .tensors import announce_written, dense


def batch_norm(
    settings: Settings,
    input: Tensor,
    *,
    training: bool,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    process_group: Any = None,
    name: str | None = None,
    timeout: float | None = None,
    repeats_update: bool = False,
) -> DTensor:
    """entry.batch_norm of a DTensor, which may be sharded on the batch dimension.

    The result has the placements of input. The statistics are those of the whole tensor, so that
    process_group is not needed; one that is given must have the ranks over which input is sharded.
    residual and mask are DTensors placed as input. Parameters and running statistics are replicated
    DTensors, or plain tensors. The gradient of a DTensor parameter is Partial over the mesh
    dimensions that shard the input, that of a plain one is this rank's part.

    Raises ValueError for any other placement.
    """
    if not isinstance(input, DTensor):
        raise ValueError(
            "input: got a plain tensor, while the parameters or running statistics are DTensors;"
            " expected a DTensor on the same mesh, such as"
            " DTensor.from_local(input, mesh, [Shard(0)])"
        )
    sharded = _sharding_dimensions(input)
    summed_up = training and settings.grad_reduction != "local"
    gradient = [
        Partial() if dimension in sharded and not summed_up else Replicate()
        for dimension in range(input.device_mesh.ndim)
    ]
    y = entry.batch_norm(
        settings,
        _settled(input.to_local()),
        training=training,
        running_mean=_replica("running_mean", running_mean, input),
        running_var=_replica("running_var", running_var, input),
        num_batches_tracked=_replica("num_batches_tracked", num_batches_tracked, input),
        weight=_replica("weight", weight, input, gradient),
        bias=_replica("bias", bias, input, gradient),
        residual=_shard("residual", residual, input),
        mask=_shard("mask", mask, input),
        process_group=_group(input, sharded, process_group) if training else ALONE,
        name=name,
        timeout=timeout,
        repeats_update=repeats_update,
    )
    if training and running_mean is not None:  # whose local tensors were written
        announce_written(running_mean, running_var, num_batches_tracked)
    if y.requires_grad and not torch.compiler.is_compiling():  # compiled code waits by itself
        y.register_hook(_settled)  # type: ignore[no-untyped-call]
    return DTensor.from_local(
        y, input.device_mesh, input.placements, shape=input.shape, stride=_dense_stride(input)
    )


def _sharding_dimensions(input: DTensor) -> list[int]:
    """The mesh dimensions over which the samples of input are divided."""
    mesh = input.device_mesh
    if mesh.get_coordinate() is None:
        raise ValueError(f"input: this rank is not in its mesh, {mesh}; expected one that is")
    for dimension, placement in enumerate(input.placements):
        if not (placement.is_replicate() or placement.is_shard(0)):
            raise ValueError(
                f"input: got {placement!r} on {_title(input, dimension)}, expected Shard(0) or"
                " Replicate() on every one; call input.redistribute(placements=...) before"
            )
    return [
        dimension
        for dimension, placement in enumerate(input.placements)
        if placement.is_shard(0) and mesh.size(dimension) > 1
    ]


def _title(input: DTensor, dimension: int) -> str:
    names = input.device_mesh.mesh_dim_names
    return f"mesh dimension {repr(names[dimension]) if names else dimension}"


def _group(input: DTensor, sharded: list[int], process_group: Any) -> Any:
    """The group of the ranks that hold the shards of input."""
    mesh = input.device_mesh
    if process_group is not None and process_group is not ALONE:
        _check_group(input, sharded, process_group)
        return process_group
    if not sharded:
        return ALONE
    if len(sharded) == 1:
        return mesh.get_group(sharded[0])
    ranks = _ranks(input, sharded)
    groups = groups_of(ranks)
    if not groups:
        dimensions = " and ".join(_title(input, dimension) for dimension in sharded)
        raise ValueError(
            f"input: it is sharded over {dimensions}, and there is no group of their ranks,"
            f" {ranks}; expected one, made on every rank with torch.distributed.new_group"
        )
    return groups[0]


def _check_group(input: DTensor, sharded: list[int], process_group: Any) -> None:
    expected = _ranks(input, sharded)
    if isinstance(process_group, Communicator):
        fits, got = process_group.size == len(expected), f"{process_group.size} ranks"
    else:
        ranks = sorted(dist.get_process_group_ranks(torch_group(process_group)))
        fits, got = ranks == expected, f"the ranks {ranks}"
    if not fits:
        raise ValueError(
            f"process_group: got a group of {got}, while the input is a DTensor whose shards are on"
            f" the ranks {expected}; expected these, or None"
        )


def _ranks(input: DTensor, sharded: list[int]) -> list[int]:
    """The global ranks that hold the shards of input, beside replicas of them."""
    mesh = input.device_mesh
    place = tuple(
        slice(None) if dimension in sharded else coordinate
        for dimension, coordinate in enumerate(mesh.get_coordinate() or ())
    )
    ranks: list[int] = mesh.mesh[place].flatten().tolist()
    return sorted(ranks)


def _replica(
    name: str,
    tensor: Tensor | None,
    input: DTensor,
    gradient: Sequence[Placement] | None = None,
) -> Tensor | None:
    """A parameter or buffer as this rank holds it."""
    if not isinstance(tensor, DTensor):
        return tensor
    _check_mesh(name, tensor, input)
    if not all(placement.is_replicate() for placement in tensor.placements):
        raise ValueError(
            f"{name}: got a DTensor placed as {tensor.placements}, expected Replicate() on every"
            " mesh dimension"
        )
    return _settled(tensor.to_local(grad_placements=gradient))


def _shard(name: str, tensor: Tensor | None, input: DTensor) -> Tensor | None:
    """This rank's shard of what belongs to the samples of input."""
    if tensor is None:
        return None
    if not isinstance(tensor, DTensor):
        raise ValueError(f"{name}: got a plain tensor, expected a DTensor as the input is one")
    _check_mesh(name, tensor, input)
    if tensor.placements != input.placements:
        raise ValueError(
            f"{name}: got a DTensor placed as {tensor.placements}, expected {input.placements} as"
            " the input"
        )
    return _settled(tensor.to_local())


def _check_mesh(name: str, tensor: DTensor, input: DTensor) -> None:
    if tensor.device_mesh != input.device_mesh:
        raise ValueError(
            f"{name}: got a DTensor on {tensor.device_mesh}, expected one on the input's mesh,"
            f" {input.device_mesh}"
        )


def _settled(local: Tensor) -> Tensor:
    """local, once the communication that makes it is done: the core reads its memory."""
    return local.clone() if isinstance(local, AsyncCollectiveTensor) else local


def _dense_stride(input: DTensor) -> tuple[int, ...]:
    """The strides of a dense tensor with the shape and the memory format of input."""
    return dense(torch.empty_strided(input.shape, input.stride(), device="meta")).stride()
