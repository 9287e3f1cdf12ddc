"""Measure the largest errors of both implementations against a float64 reference."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from .cases import Inputs
from .subjects import Gradients, Subject


@dataclasses.dataclass(frozen=True)
class Errors:
    """Largest absolute errors, divided by the largest absolute value of the reference."""

    y: float
    dx: float
    dweight: float
    dbias: float


class Float64Reference:
    """Output and gradients in float64, computed from the inputs as rounded to their dtype."""

    def __init__(self, inputs: Inputs) -> None:
        leaves = [
            t.detach().double().requires_grad_() for t in (inputs.x, inputs.weight, inputs.bias)
        ]
        x, weight, bias = leaves
        self._y = functional.batch_norm(x, None, None, weight, bias, training=True)
        self._gradients: Gradients = torch.autograd.grad(self._y, leaves, inputs.dy.double())

    def errors_of(self, subject: Subject) -> Errors:
        """Run `subject` once and return its errors."""
        subject.prepare_backward()
        results = (subject.forward(), *subject.backward())
        return Errors(*map(_largest_error, results, (self._y, *self._gradients)))


def _largest_error(result: Tensor, reference: Tensor) -> float:
    difference = (result.detach().double() - reference.detach()).abs_().max()
    return (difference / reference.detach().abs().max()).item()
