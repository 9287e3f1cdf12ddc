"""What is compared: torch's batch norm and two ways into syncnorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

import syncnorm
import syncnorm.torch
from syncnorm.torch import bridge, phases

from .cases import Inputs

Gradients = tuple[Tensor, ...]  # of x, weight and bias


class Subject(Protocol):
    """All outputs are allocated inside the calls."""

    def forward(self) -> Tensor: ...

    def begin_backward(self) -> None:
        """What backward needs, outside of its timing."""

    def backward(self) -> Gradients: ...

    def both(self) -> Gradients: ...


class AutogradSubject:
    """A function of x that autograd differentiates."""

    def __init__(self, function: Callable[[Tensor], Tensor], inputs: Inputs) -> None:
        self._function = function
        self._x, self._dy = inputs.x, inputs.dy
        self._leaves = (inputs.x, inputs.weight, inputs.bias)
        self._y: Tensor | None = None

    def forward(self) -> Tensor:
        return self._function(self._x)

    def begin_backward(self) -> None:
        self._y = self._function(self._x)

    def backward(self) -> Gradients:
        assert self._y is not None, "begin_backward comes first"
        return torch.autograd.grad(self._y, self._leaves, self._dy, retain_graph=True)

    def both(self) -> Gradients:
        return torch.autograd.grad(self._function(self._x), self._leaves, self._dy)


class PhasesSubject:
    """What each rank of a group does: the phases with a sum between them, here over one rank."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._call = phases.Call(options=syncnorm.Options(), group_size=1, tag=0)
        channels = inputs.x.shape[1]
        self._running = torch.zeros(channels), torch.ones(channels)
        self._saved = torch.empty(0)

    def forward(self) -> Tensor:
        inputs = self._inputs
        x = inputs.x.detach()
        y = torch.empty_like(x)
        sizes = bridge.sizes(x, self._call.options)
        self._saved = torch.empty(sizes.saved, dtype=torch.float64)
        shard = phases.Forward(
            x=x,
            y=y,
            sizes=sizes,
            saved=self._saved,
            weight=inputs.weight.detach(),
            bias=inputs.bias.detach(),
            running_mean=self._running[0],
            running_var=self._running[1],
        )
        phases.forward(self._call, [shard], _sum_of_one)
        return y

    def begin_backward(self) -> None:
        self.forward()

    def backward(self) -> Gradients:
        inputs = self._inputs
        x = inputs.x.detach()
        dx = torch.empty_like(x)
        dweight, dbias = torch.empty_like(inputs.weight), torch.empty_like(inputs.bias)
        shard = phases.Backward(
            x=x,
            dy=inputs.dy,
            saved=self._saved,
            weight=inputs.weight.detach(),
            bias=inputs.bias.detach(),
            dx=dx,
            dweight=dweight,
            dbias=dbias,
        )
        phases.backward(self._call, [shard], _sum_of_one)
        return dx, dweight, dbias

    def both(self) -> Gradients:
        self.forward()
        return self.backward()


def _sum_of_one(wires: list[Tensor]) -> list[Tensor]:
    return [wire.clone() for wire in wires]


def torch_subject(inputs: Inputs) -> Subject:
    channels = inputs.x.shape[1]
    running_mean, running_var = torch.zeros(channels), torch.ones(channels)

    def batch_norm(x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, running_mean, running_var, inputs.weight, inputs.bias, training=True
        )

    return AutogradSubject(batch_norm, inputs)


def syncnorm_subject(inputs: Inputs, path: str) -> Subject:
    """path: "layer", the module in a group of one, or "phases"."""
    if path == "phases":
        return PhasesSubject(inputs)
    layer = syncnorm.torch.SyncBatchNorm(inputs.x.shape[1])
    layer.weight = torch.nn.Parameter(inputs.weight)
    layer.bias = torch.nn.Parameter(inputs.bias)
    leaves = Inputs(inputs.x, inputs.dy, layer.weight, layer.bias)
    return AutogradSubject(layer, leaves)
