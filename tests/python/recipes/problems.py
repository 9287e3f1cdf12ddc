"""A small training that every recipe runs on two ranks, and its result on one process.

The samples of a batch differ in mean and scale, so that the ranks' own statistics differ from those
of the joined batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

BATCH = 8
STEPS = 3
EPOCHS = 2


def network() -> nn.Sequential:
    """Return a network with batch normalizations of two kinds, the same in each call."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Linear(8, 2),
        )


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(7)
    number = torch.arange(BATCH * STEPS)
    x = torch.randn(BATCH * STEPS, 3, 6, 6, generator=generator)
    x = x * (1 + number % BATCH / 4).view(-1, 1, 1, 1) + (number % 2).view(-1, 1, 1, 1)
    return TensorDataset(x, torch.randn(BATCH * STEPS, 2, generator=generator))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def loss_of(y: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(y, target)


def loader(rank: int = 0, size: int = 1, shards: bool = True) -> DataLoader[Any]:
    """Return the rank's part of every batch; without shards a tool divides the batches itself."""
    samples = DistributedSampler(dataset(), size, rank, shuffle=False) if shards else None
    return DataLoader(dataset(), BATCH // size, sampler=samples)


def train(
    model: nn.Module,
    optimizer: Any,
    batches: Iterable[tuple[Tensor, Tensor]],
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> None:
    model.train()
    for _ in range(EPOCHS):
        for x, target in batches:
            optimizer.zero_grad()
            backward(loss_of(model(x), target))
            optimizer.step()


def timm_network() -> nn.Sequential:
    """Return a network with a BatchNormAct2d of timm and a BatchNorm2d, the same in each call."""
    from timm.layers import BatchNormAct2d

    model = network()
    model[1] = BatchNormAct2d(4, act_layer=nn.SiLU)
    model[2] = nn.BatchNorm2d(4)
    return model


class Pooled(nn.Module):
    """A network that returns an image, followed by the mean over its pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).mean((2, 3))


def one_process(model: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the state after training by one process with torch's own layers."""
    model = model or network()
    train(model, optimizer_of(model), loader())
    return model.state_dict()


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefix of the wrapper that it was taken from."""
    return {name.rpartition("model.")[2].removeprefix("module."): t for name, t in state.items()}


def check(state: dict[str, Tensor], expected: dict[str, Tensor] | None = None) -> None:
    """Raise unless this is the expected state, by default of one process, up to rounding."""
    expected = one_process() if expected is None else expected
    torch.testing.assert_close(dict(state), dict(expected), rtol=1e-4, atol=1e-5)
