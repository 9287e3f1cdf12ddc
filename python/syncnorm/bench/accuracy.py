"""The largest errors against float64, of both sides, on the benchmark's own inputs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from .cases import Inputs
from .subjects import Gradients, Subject


@dataclasses.dataclass(frozen=True)
class Errors:
    """Largest absolute error, divided by the largest absolute value of the exact result."""

    y: float
    dx: float
    dweight: float
    dbias: float


class Exact:
    """The result in float64, from the inputs as they were rounded to their dtype."""

    def __init__(self, inputs: Inputs) -> None:
        leaves = [
            t.detach().double().requires_grad_() for t in (inputs.x, inputs.weight, inputs.bias)
        ]
        x, weight, bias = leaves
        self._y = functional.batch_norm(x, None, None, weight, bias, training=True)
        self._gradients: Gradients = torch.autograd.grad(self._y, leaves, inputs.dy.double())

    def errors_of(self, subject: Subject) -> Errors:
        subject.begin_backward()
        results = (subject.forward(), *subject.backward())
        exact = (self._y, *self._gradients)
        return Errors(*map(_largest_error, results, exact))


def _largest_error(result: Tensor, exact: Tensor) -> float:
    difference = (result.detach().double() - exact.detach()).abs_().max()
    return (difference / exact.detach().abs().max()).item()
