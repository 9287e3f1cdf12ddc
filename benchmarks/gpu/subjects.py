"""The subjects of the comparison: syncnorm, torch's SyncBatchNorm kernels, torch's batch_norm.

Every call allocates its outputs, records nothing for autograd, and updates running statistics.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.nn import functional

import syncnorm
from syncnorm import _core
from syncnorm._core import CONTROL_SIZE

from .cases import Inputs

EPS = 1e-5
MOMENTUM = 0.1


class Subject(Protocol):
    """backward belongs to the forward before it."""

    def forward(self) -> Tensor: ...

    def backward(self) -> Tensor: ...


class _Ours:
    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        x = inputs.x
        self._options = syncnorm.Options(eps=EPS, momentum=MOMENTUM)
        self._sizes = _core.sizes(x, self._options)
        channels = x.shape[1]
        self._running = (
            torch.zeros(channels, device=x.device),
            torch.ones(channels, device=x.device),
        )
        self._launch = self._where_to_run(x)
        self._saved = self._doubles(self._sizes.saved)

    def _where_to_run(self, x: Tensor) -> dict[str, Any]:
        def scratch(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.uint8, device=x.device)

        launch: dict[str, Any] = {"workspace": scratch(self._sizes.workspace)}
        if x.is_cuda:
            launch["control"] = scratch(CONTROL_SIZE)
            launch["stream"] = torch.cuda.current_stream(x.device).cuda_stream
        else:
            launch["num_threads"] = torch.get_num_threads()
        return launch

    def _doubles(self, length: int) -> Tensor:
        return torch.empty(length, dtype=torch.float64, device=self._inputs.x.device)

    def _forward_arguments(self) -> dict[str, Any]:
        return {
            "saved": self._saved,
            "weight": self._inputs.weight,
            "bias": self._inputs.bias,
            "running_mean": self._running[0],
            "running_var": self._running[1],
            **self._launch,
        }

    def _gradients(self) -> dict[str, Any]:
        inputs = self._inputs
        return {
            "dx": torch.empty_like(inputs.x),
            "dweight": torch.empty_like(inputs.weight),
            "dbias": torch.empty_like(inputs.bias),
            "weight": inputs.weight,
            "bias": inputs.bias,
            **self._launch,
        }


class Phases(_Ours):
    """The computation of one rank of a larger group, without the all-reduce: one kernel a phase."""

    def moments(self) -> None:
        self._wire = self._doubles(self._sizes.wire)
        _core.moments(self._options, self._inputs.x, self._wire, **self._launch)

    def normalize(self) -> Tensor:
        x, wire = self._inputs.x, self._wire
        y = torch.empty_like(x)
        _core.normalize(self._options, x, 1, wire, wire, y, **self._forward_arguments())
        return y

    def grad_moments(self) -> None:
        inputs = self._inputs
        self._grad_wire = self._doubles(self._sizes.grad_wire)
        affine = {"weight": inputs.weight, "bias": inputs.bias}
        tensors = (inputs.x, inputs.dy, self._saved, self._grad_wire)
        _core.grad_moments(self._options, *tensors, **affine, **self._launch)

    def grad_input(self) -> Tensor:
        inputs, wire, gradients = self._inputs, self._grad_wire, self._gradients()
        tensors = (inputs.x, inputs.dy, self._saved)
        _core.grad_input(self._options, *tensors, 1, wire, wire, **gradients)
        return gradients["dx"]

    def forward(self) -> Tensor:
        self.moments()
        return self.normalize()

    def backward(self) -> Tensor:
        self.grad_moments()
        return self.grad_input()


class OneCall(_Ours):
    """A group of one rank: both phases of a pass in one call, with the same kernels."""

    def forward(self) -> Tensor:
        x = self._inputs.x
        y = torch.empty_like(x)
        _core.forward(self._options, None, x, y, **self._forward_arguments())
        return y

    def backward(self) -> Tensor:
        inputs, gradients = self._inputs, self._gradients()
        _core.backward(self._options, None, inputs.x, inputs.dy, self._saved, **gradients)
        return gradients["dx"]


class TorchKernels:
    """The five kernels of torch.nn.SyncBatchNorm in a group of one rank, without communication."""

    def __init__(self, inputs: Inputs, kernels: Any) -> None:
        self._inputs, self._kernels = inputs, kernels
        x = inputs.x
        channels = x.shape[1]
        self._running = (
            torch.zeros(channels, device=x.device),
            torch.ones(channels, device=x.device),
        )
        self._count = torch.full((1,), x.numel() / channels, device=x.device)
        self._count_in_backward = self._count.to(torch.int32)
        self._statistics: tuple[Tensor, ...] = ()

    def forward(self) -> Tensor:
        inputs, torch_ = self._inputs, self._kernels
        mean, invstd = torch_.batch_norm_stats(inputs.x, EPS)
        self._statistics = torch_.batch_norm_gather_stats_with_counts(
            inputs.x,
            mean.unsqueeze(0),
            invstd.unsqueeze(0),
            *self._running,
            MOMENTUM,
            EPS,
            self._count,
        )
        y: Tensor = torch_.batch_norm_elemt(
            inputs.x, inputs.weight, inputs.bias, *self._statistics, EPS
        )
        return y

    def backward(self) -> Tensor:
        inputs, torch_ = self._inputs, self._kernels
        tensors = (inputs.dy, inputs.x, *self._statistics, inputs.weight)
        sum_dy, sum_dy_xmu, _, _ = torch_.batch_norm_backward_reduce(*tensors, True, True, True)
        dx: Tensor = torch_.batch_norm_backward_elemt(
            *tensors, sum_dy, sum_dy_xmu, self._count_in_backward
        )
        return dx


class TorchBatchNorm:
    """F.batch_norm in training: cuDNN, where torch chooses it."""

    def __init__(self, inputs: Inputs) -> None:
        self._dy = inputs.dy
        leaves = (inputs.x, inputs.weight, inputs.bias)
        self._leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        channels = inputs.x.shape[1]
        device = inputs.x.device
        self._running = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        self._y: Tensor | None = None

    def _batch_norm(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.batch_norm(
            x, *self._running, weight, bias, training=True, momentum=MOMENTUM, eps=EPS
        )

    def forward(self) -> Tensor:
        self._y = self._batch_norm(*self._leaves)
        return self._y

    def backward(self) -> Tensor:
        if self._y is None:
            raise RuntimeError("backward was called before forward")
        return torch.autograd.grad(self._y, self._leaves, self._dy, retain_graph=True)[0]


class CompiledBatchNorm(TorchBatchNorm):
    """F.batch_norm in training, compiled by torch.compile for this shape."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        torch.compiler.reset()  # or the ninth shape would run uncompiled
        self._compiled = torch.compile(self._batch_norm, fullgraph=True, dynamic=False)
        # A backward pass that reuses saved buffers cannot run twice after one forward pass.
        with functorch_config.patch(donated_buffer=False):
            self.forward()
            self.backward()

    def forward(self) -> Tensor:
        self._y = self._compiled(*self._leaves)
        return self._y


def subjects(inputs: Inputs, kernels: Any) -> dict[str, Subject]:
    """Return all subjects that need no compilation.

    Args:
        inputs: the tensors of the case.
        kernels: the module with `batch_norm_stats` and torch's other kernels: torch or rehearsal.
    """
    return {
        "phases": Phases(inputs),
        "one call": OneCall(inputs),
        "torch kernels": TorchKernels(inputs, kernels),
        "F.batch_norm": TorchBatchNorm(inputs),
    }
