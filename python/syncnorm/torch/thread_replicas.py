"""A network once for each device of this process, for a thread each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from syncnorm import Communicator
from syncnorm.comm import nccl_group, thread_group

from .kept_groups import KeepsGroup


def thread_replicas(
    module: nn.Module, devices: Sequence[Any], timeout: float = 60.0
) -> list[nn.Module]:
    """Copies of module, one for each device, whose synchronized layers are the ranks of one group.

    Each copy is used by a thread of its own, which also calls backward; all of them train with the
    same number of calls. Their parameters are their own: add up the gradients of the copies before
    a step of the optimizers, and take the same step in each.

    devices: as torch.device takes them. All are "cpu", which then counts as so many devices, or
    CUDA devices that differ. timeout: how many seconds a layer waits for the other threads on the
    CPU.

    Raises ValueError for other devices, or a module without synchronized layers; and as
    syncnorm.comm.nccl_group.
    """
    places = [device_of(given) for given in devices]
    if not any(isinstance(layer, KeepsGroup) for layer in module.modules()):
        raise ValueError(
            f"module: got a {type(module).__name__} without a synchronized layer, expected one with"
            " layers of syncnorm.torch"
        )
    replicas = []
    for place, communicator in zip(places, _group_of(places, timeout), strict=True):
        replica = copy.deepcopy(module).to(place)
        for layer in replica.modules():
            if isinstance(layer, KeepsGroup):
                layer.process_group = communicator
        replicas.append(replica)
    return replicas


def device_of(given: Any) -> torch.device:
    """What torch.device takes; a number is that of a CUDA device, whatever kind is current."""
    return torch.device("cuda", given) if isinstance(given, int) else torch.device(given)


def _group_of(places: Sequence[torch.device], timeout: float) -> list[Communicator]:
    kinds = {place.type for place in places}
    if kinds == {"cpu"}:
        return thread_group(len(places), timeout)
    if kinds == {"cuda"} and all(place.index is not None for place in places):
        return nccl_group([place.index for place in places])
    raise ValueError(
        f"devices: got {[str(place) for place in places]}, expected one or more, all 'cpu' or all"
        " CUDA devices with their index, such as 'cuda:0'"
    )
