"""What every rank of test_second_order.py's world does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

SAMPLES = [3, 5]


def shard(rank: int, seed: int = 0, width: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(10 * seed + rank)
    return torch.randn(SAMPLES[rank], width, generator=generator, dtype=torch.float64)


def critic() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Softplus(), nn.Linear(5, 5)]
        layers += [nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1)]
        return nn.Sequential(*layers).double()


def penalized(model: nn.Module, x: Tensor) -> Tensor:
    """A loss with a penalty on how far the slope of the model is from 1, as in a WGAN-GP."""
    scores = model(x)
    (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return scores.sum() + (slope.norm(dim=1) - 1).pow(2).sum()


@scenario
def gradient_penalty(rank: int, _: int) -> Any:
    """Two steps of which the second has no second derivative."""
    model = convert_sync_batchnorm(critic())
    x = shard(rank).requires_grad_()
    penalized(model, x).backward()
    gradients = [x.grad, *[parameter.grad for parameter in model.parameters()]]
    return gradients, model(shard(rank, seed=1))


@scenario
def the_first_rank_s_x_and_the_others_residual(rank: int, _: int) -> Any:
    """A rank's penalty is on the gradient of the one input that needs a gradient there."""
    layer = SyncBatchNorm(4, affine=False, activation="leaky_relu", dtype=torch.float64)
    x, residual = shard(rank), shard(rank, seed=1)
    needed = (x if rank == 0 else residual).requires_grad_()
    y = layer(x, residual)
    (gradient,) = torch.autograd.grad(y, needed, shard(rank, seed=2), create_graph=True)
    gradient.pow(3).sum().backward()
    return needed.grad


@scenario
def second_derivatives_of_different_layers(rank: int, _: int) -> Any:
    x = shard(rank).requires_grad_()
    layers = [SyncBatchNorm(4, dtype=torch.float64) for _ in range(2)]
    ys = [layer(x).pow(3).sum() for layer in layers]
    penalties = [torch.autograd.grad(y, x, create_graph=True)[0].pow(2).sum() for y in ys]
    if rank == 0:
        penalties.reverse()
    error = error_of(lambda: torch.autograd.grad(penalties[0], layers[1 - rank].weight))
    return error, layers[0](shard(rank))
