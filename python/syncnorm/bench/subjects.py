"""Define the subjects of the benchmark: torch's batch norm and two paths through syncnorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

import syncnorm
import syncnorm.torch
from syncnorm.torch.ops import kernels
from syncnorm.torch.ops.kernels import Running

from .cases import Inputs

Gradients = tuple[Tensor, ...]  # of x, weight and bias


class Subject(Protocol):
    """An implementation to time; every call allocates its outputs."""

    def forward(self) -> Tensor:
        """Return y."""

    def prepare_backward(self) -> None:
        """Run the forward pass that `backward` needs; not part of its timing."""

    def backward(self) -> Gradients:
        """Return the gradients of the last forward pass; can be called repeatedly."""

    def forward_backward(self) -> Gradients:
        """Run forward and backward as one operation."""


class AutogradSubject:
    """A function of x that autograd differentiates."""

    def __init__(self, function: Callable[[Tensor], Tensor], inputs: Inputs) -> None:
        self._function = function
        self._x, self._dy = inputs.x, inputs.dy
        self._leaves = (inputs.x, inputs.weight, inputs.bias)
        self._y: Tensor | None = None

    def forward(self) -> Tensor:
        return self._function(self._x)

    def prepare_backward(self) -> None:
        self._y = self._function(self._x)

    def backward(self) -> Gradients:
        assert self._y is not None, "call prepare_backward first"
        return torch.autograd.grad(self._y, self._leaves, self._dy, retain_graph=True)

    def forward_backward(self) -> Gradients:
        return torch.autograd.grad(self._function(self._x), self._leaves, self._dy)


class PhasesSubject:
    """The phases that each rank of a group runs, with a copy in place of the all-reduce."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._options = syncnorm.Options()
        channels = inputs.x.shape[1]
        self._running = Running(torch.zeros(channels), torch.ones(channels))
        self._saved = torch.empty(0)

    def forward(self) -> Tensor:
        options, inputs = self._options, self._inputs
        x, weight, bias = inputs.x.detach(), inputs.weight.detach(), inputs.bias.detach()
        y = torch.empty_like(x)
        given = (weight, bias, None, self._running, y, True)
        arguments = kernels.forward_arguments(options, x, *given)
        wire, _ = kernels.moments(options, x, None, 0, arguments)
        kernels.normalize(options, x, wire, wire.clone(), None, 1, 0, arguments)
        self._saved = arguments["saved"]
        return y

    def prepare_backward(self) -> None:
        self.forward()

    def backward(self) -> Gradients:
        options, inputs, saved = self._options, self._inputs, self._saved
        x, weight, bias = inputs.x.detach(), inputs.weight.detach(), inputs.bias.detach()
        wanted = (True, True, True, False)
        arguments = kernels.backward_arguments(options, x, wanted, weight, bias, None, None)
        wire = kernels.grad_moments(options, x, inputs.dy, saved, 0, arguments)
        kernels.grad_input(options, x, inputs.dy, saved, wire, wire.clone(), 1, 0, arguments)
        gradients = kernels.gradients(arguments)
        return tuple(gradient for gradient in gradients if gradient is not None)

    def forward_backward(self) -> Gradients:
        self.forward()
        return self.backward()


def torch_subject(inputs: Inputs) -> Subject:
    """Return torch's `functional.batch_norm` in training mode as a subject."""
    channels = inputs.x.shape[1]
    running_mean, running_var = torch.zeros(channels), torch.ones(channels)

    def batch_norm(x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, running_mean, running_var, inputs.weight, inputs.bias, training=True
        )

    return AutogradSubject(batch_norm, inputs)


def syncnorm_subject(inputs: Inputs, path: str) -> Subject:
    """Return syncnorm as a subject.

    Args:
        inputs: The tensors of the case.
        path: "layer", the module in a group of one rank, or "phases".
    """
    if path == "phases":
        return PhasesSubject(inputs)
    layer = syncnorm.torch.SyncBatchNorm(inputs.x.shape[1])
    layer.weight = torch.nn.Parameter(inputs.weight)
    layer.bias = torch.nn.Parameter(inputs.bias)
    return AutogradSubject(layer, Inputs(inputs.x, inputs.dy, layer.weight, layer.bias))
