"""Batch normalization of DTensors: each rank normalizes its shard with the statistics of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate

from syncnorm import Communicator, InvalidArgumentError
from syncnorm.torch.call import Affine, Call
from syncnorm.torch.ops.kernels import Running
from syncnorm.torch.ops.layout import bump_versions, dense

from .process_group import ALONE
from .rank_lists import groups_of


def localize(input: Tensor, call: Call) -> tuple[Tensor, Call, Callable[[Tensor], DTensor]]:
    """Return this rank's part of a call on DTensors, and a function that wraps its result.

    The statistics are those of the whole tensor; a call.group that is given must have the ranks
    that hold the shards. The gradient of a DTensor parameter is Partial over the mesh dimensions
    that shard the input; that of a plain parameter is this rank's part.
    """
    if not isinstance(input, DTensor):
        raise InvalidArgumentError(
            "input: got a plain tensor, while the parameters or running statistics are DTensors;"
            " expected one as well, such as DTensor.from_local(input, mesh, [Shard(0)])"
        )
    mesh, sharded = input.device_mesh, _sharding_dimensions(input)
    # A gradient that the layer itself reduces is the same on all ranks.
    partial = [] if call.training and call.settings.grad_reduction != "local" else sharded
    gradient = [Partial() if axis in partial else Replicate() for axis in range(mesh.ndim)]
    replicated = (Replicate(),) * mesh.ndim
    affine = zip(("weight", "bias"), call.affine, strict=True)
    running = zip(("running_mean", "running_var", "num_batches_tracked"), call.running, strict=True)
    for name, tensor in (("residual", call.residual), ("mask", call.mask)):
        if tensor is not None and not isinstance(tensor, DTensor):
            text = f"{name}: got a plain tensor, expected a DTensor as the input is one"
            raise InvalidArgumentError(text)
    local_call = call._replace(
        affine=Affine(*[_local(*named, input, replicated, gradient) for named in affine]),
        running=Running(*[_local(*named, input, replicated) for named in running]),
        residual=_local("residual", call.residual, input, input.placements),
        mask=_local("mask", call.mask, input, input.placements),
        group=_group(input, sharded, call.group) if call.training else ALONE,
    )

    def wrap(y: Tensor) -> DTensor:
        if call.training and call.running[0] is not None:  # the local tensors were written
            bump_versions(*call.running)
        if y.requires_grad and not torch.compiler.is_compiling():  # compiled code waits by itself
            y.register_hook(_wait)  # type: ignore[no-untyped-call]
        model = dense(torch.empty_strided(input.shape, input.stride(), device="meta"))
        whole: Any = {"shape": input.shape, "stride": model.stride()}
        return DTensor.from_local(y, mesh, input.placements, **whole)

    return _wait(input.to_local()), local_call, wrap


def _sharding_dimensions(input: DTensor) -> list[int]:
    """Return the mesh dimensions that divide the samples of input."""
    mesh = input.device_mesh
    if mesh.get_coordinate() is None:
        raise InvalidArgumentError(
            f"input: this rank is not in its mesh, {mesh}; expected one that contains it"
        )
    sharded = []
    for dimension, placement in enumerate(input.placements):
        if placement.is_shard(0) and mesh.size(dimension) > 1:
            sharded.append(dimension)
        elif not (placement.is_shard(0) or placement.is_replicate()):
            raise InvalidArgumentError(
                f"input: got {placement!r} on {_title(input, dimension)}, expected Shard(0) or"
                " Replicate() on every one; call input.redistribute(placements=...) before"
            )
    return sharded


def _title(input: DTensor, dimension: int) -> str:
    names = input.device_mesh.mesh_dim_names
    return f"mesh dimension {repr(names[dimension]) if names else dimension}"


def _group(input: DTensor, sharded: list[int], process_group: Any) -> Any:
    """Return the group of the ranks that hold the shards of input."""
    if process_group is not None and process_group is not ALONE:
        expected = _ranks(input, sharded)
        if isinstance(process_group, Communicator):
            fits, got = process_group.size == len(expected), f"{process_group.size} ranks"
        else:
            ranks = sorted(dist.get_process_group_ranks(process_group))
            fits, got = ranks == expected, f"the ranks {ranks}"
        if not fits:
            raise InvalidArgumentError(
                f"process_group: got a group of {got}, while the shards of the DTensor input are on"
                f" the ranks {expected}; expected these, or None"
            )
        return process_group
    if not sharded:
        return ALONE
    if len(sharded) == 1:
        return input.device_mesh.get_group(sharded[0])
    ranks = _ranks(input, sharded)
    groups = groups_of(ranks)
    if not groups:
        dimensions = " and ".join(_title(input, dimension) for dimension in sharded)
        raise InvalidArgumentError(
            f"input: got shards over {dimensions}, and this process has no group of their ranks,"
            f" {ranks}; create it on every rank with torch.distributed.new_group"
        )
    return groups[0]


def _ranks(input: DTensor, sharded: list[int]) -> list[int]:
    """Return the global ranks that hold different shards of input."""
    mesh = input.device_mesh
    place: list[Any] = list(mesh.get_coordinate() or ())
    for dimension in sharded:
        place[dimension] = slice(None)  # all ranks along it
    ranks: list[int] = mesh.mesh[tuple(place)].flatten().tolist()
    return sorted(ranks)


def _local(
    name: str,
    tensor: Tensor | None,
    input: DTensor,
    placements: Sequence[Placement],
    gradient: Sequence[Placement] | None = None,
) -> Tensor | None:
    """Return this rank's part of a DTensor, which must have these placements."""
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.device_mesh != input.device_mesh:
        expected = f"expected one on the input's mesh, {input.device_mesh}"
        raise InvalidArgumentError(f"{name}: got a DTensor on {tensor.device_mesh}, {expected}")
    if tensor.placements != placements:
        got = f"got a DTensor placed as {tensor.placements}"
        raise InvalidArgumentError(f"{name}: {got}, expected {placements}")
    return _wait(tensor.to_local(grad_placements=gradient))


def _wait(local: Tensor) -> Tensor:
    """Return the local tensor after its collective has finished: the core reads its memory."""
    return local.clone() if isinstance(local, AsyncCollectiveTensor) else local
