"""Trainings that ranks and one process go through alike, compared step by step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Training:
    """Steps of SGD on the mean squared error of a whole batch, of which each rank has its part."""

    network: Callable[[], nn.Module]
    sample: tuple[int, ...]
    sizes: Callable[[int], list[int]]  # samples on each rank, by the number of ranks
    steps: int = 5
    memory_format: torch.memory_format = torch.contiguous_format

    def new(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return self.network().double()

    def run(
        self, model: nn.Module, ranks: int, mine: slice = slice(None), divisor: int = 1
    ) -> list[dict[str, Any]]:
        """What came out of each step.

        divisor: of the sum over the ranks, by which DistributedDataParallel makes gradients.
        """
        samples = sum(self.sizes(ranks))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        steps = []
        for step in range(self.steps):
            x = numbers(10 * step, samples, *self.sample)[mine]
            x = x.contiguous(memory_format=self.memory_format).requires_grad_()
            optimizer.zero_grad()
            y = model(x)
            target = numbers(10 * step + 1, samples, *y.shape[1:])
            loss = (y - target[mine]).square().sum() * divisor / target.numel()
            loss.backward()
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
            steps.append({"y": y.detach(), "dx": x.grad / divisor, "gradients": gradients})
            optimizer.step()
        return steps


class Network(nn.Module):
    """Its normalization is between linear layers and has three channels of four values a sample."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(2, 12, bias=False)
        self.norm = nn.BatchNorm1d(3, momentum=0.99, affine=affine)
        self.last = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x).reshape(-1, 3, 4))
        return self.last(torch.sigmoid(y).flatten(1))


def two_each(ranks: int) -> list[int]:
    return [2] * ranks


TRAININGS = {
    "network": Training(Network, (2,), two_each),
    "no_affine": Training(functools.partial(Network, affine=False), (2,), two_each, steps=2),
    "two_dimensional_input": Training(lambda: nn.BatchNorm1d(2), (2,), two_each),
    "single_input_per_process": Training(lambda: nn.BatchNorm1d(2), (2,), lambda n: [1] * n),
    "different_input_sizes": Training(Network, (2,), lambda n: [2 + rank for rank in range(n)]),
    "channels_last": Training(
        lambda: nn.BatchNorm2d(2, momentum=0.99),
        (2, 4, 4),
        two_each,
        memory_format=torch.channels_last,
    ),
    "channels_last_3d": Training(
        lambda: nn.BatchNorm3d(2, momentum=0.99),
        (2, 4, 4, 4),
        two_each,
        memory_format=torch.channels_last_3d,
    ),
    "momentum_none": Training(lambda: nn.BatchNorm2d(2, momentum=None), (2, 3, 3), two_each),
}
