"""Replicas of a model for threads of one process, one per device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from syncnorm import InvalidArgumentError
from syncnorm.comm import nccl_group, thread_group

from .pickling import HasProcessGroup


def thread_replicas(
    module: nn.Module, devices: Sequence[Any], timeout: float = 60.0
) -> list[nn.Module]:
    """Return copies of module, one per device, with synchronized layers that form one group.

    One thread uses each copy, for forward and backward; all copies make the same calls. Each copy
    has its own parameters: sum their gradients before an optimizer step, the same in each copy.

    Args:
        module: Contains at least one synchronized layer.
        devices: As torch.device takes them: all "cpu", any number, or different CUDA devices.
        timeout: Seconds that a layer waits for the other threads on the CPU.

    Raises:
        InvalidArgumentError: Other devices, or no synchronized layer.
        Error: As raised by syncnorm.comm.nccl_group.
    """
    places = [device_of(given) for given in devices]
    if not any(isinstance(layer, HasProcessGroup) for layer in module.modules()):
        text = f"module: got a {type(module).__name__} without a synchronized layer"
        raise InvalidArgumentError(f"{text}, expected one with layers of syncnorm.torch")
    kinds = {place.type for place in places}
    if kinds == {"cpu"}:
        communicators = thread_group(len(places), timeout)
    elif kinds == {"cuda"} and all(place.index is not None for place in places):
        communicators = nccl_group([place.index for place in places])
    else:
        raise InvalidArgumentError(
            f"devices: got {[str(place) for place in places]}, expected one or more, all 'cpu' or"
            " all CUDA devices with their index, such as 'cuda:0'"
        )
    replicas = []
    for place, communicator in zip(places, communicators, strict=True):
        replica = copy.deepcopy(module).to(place)
        for layer in replica.modules():
            if isinstance(layer, HasProcessGroup):
                layer.process_group = communicator
        replicas.append(replica)
    return replicas


def device_of(given: Any) -> torch.device:
    """Return torch.device(given); a number is that of a CUDA device."""
    return torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
