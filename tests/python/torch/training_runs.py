"""Small networks, their data, and the training steps that ranks and a single process share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEPS = 5
CLASSES = 4

# Samples on each rank, by the number of ranks.
EQUAL = {2: [6, 6], 4: [3, 3, 3, 3]}
UNEQUAL = {2: [3, 7], 4: [1, 5, 2, 4]}
WITH_EMPTY = {2: [7, 0], 4: [3, 0, 4, 2]}


def linear_network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)
    ).to(dtype)


def convolutional_network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    ).to(dtype)


def batches(shape: Sequence[int], samples: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """The whole batch of each step, the same in every process."""
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(samples, *shape, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(CLASSES, (samples,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def part(sizes: Sequence[int], rank: int) -> slice:
    start = sum(sizes[:rank])
    return slice(start, start + sizes[rank])


def train(
    model: nn.Module,
    data: Sequence[tuple[Tensor, Tensor]],
    mine: slice = slice(None),
    *,
    scale: float = 1.0,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> None:
    """SGD on the mean loss of the whole batch; this process computes its part, times scale."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, target in data:
        optimizer.zero_grad()
        output = model(x[mine].contiguous(memory_format=memory_format))
        loss = nn.functional.cross_entropy(output, target[mine], reduction="sum") / len(target)
        (scale * loss).backward()
        optimizer.step()
