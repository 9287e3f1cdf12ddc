"""What every rank of test_checkpoint.py's world does: the same training, checkpointed or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)
from worlds import Scenario

from support.scenarios import scenario_of
from syncnorm.torch import SyncBatchNorm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

# Calls a function of tensors on tensors, checkpointed in some way.
Wrap = Callable[..., Tensor]


class Block(nn.Module):
    """Normalized twice, with something to recompute before, between and after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = SyncBatchNorm(width, activation="relu")
        self.norm_add = SyncBatchNorm(width, activation="leaky_relu", momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_add(self.second(self.norm(self.first(x))), x).tanh()


def blocks_of(width: int) -> nn.ModuleList:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.ModuleList([Block(width), Block(width)]).double()


def trained(rank: int, wrap: Wrap, *, calls: int = 1, needed: bool = True) -> list[Any]:
    """Outputs, gradients and state of two steps, with another batch size on each rank.

    calls: forward passes before the backward pass. needed: whether this rank needs gradients.
    """
    generator = torch.Generator().manual_seed(rank)
    blocks = blocks_of(5).requires_grad_(needed)
    results: list[Any] = []
    for _ in range(2):
        blocks.zero_grad()
        losses = []
        for _ in range(calls):
            x = torch.randn(3 + 2 * rank, 5, generator=generator).double().requires_grad_(needed)
            y = x
            for block in blocks:
                y = wrap(block, y)
            losses.append((y * y).mean())
        torch.stack(losses).sum().backward()
        results += [
            y.detach(),
            x.grad,
            *[None if p.grad is None else p.grad.clone() for p in blocks.parameters()],
        ]
    return [*results, blocks.state_dict()]


def as_it_is(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return function(*tensors)


def nested(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    def inner(*tensors: Tensor) -> Tensor:
        return checkpoint(function, *tensors, use_reentrant=False) * 1.0

    return checkpoint(inner, *tensors, use_reentrant=False)


def to_the_end(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    with set_checkpoint_early_stop(False):
        return checkpoint(function, *tensors, use_reentrant=False)


def selective(policy: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    contexts = partial(create_selective_checkpoint_contexts, policy)
    return checkpoint(function, *tensors, use_reentrant=False, context_fn=contexts)


def everything(*_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE


reentrant = partial(checkpoint, use_reentrant=True)
not_reentrant = partial(checkpoint, use_reentrant=False)

WRAPS: dict[str, Wrap] = {
    "reentrant": reentrant,
    "not_reentrant": not_reentrant,
    "to_the_end": to_the_end,
    "nested": nested,
    "selective": partial(selective, [torch.ops.aten.addmm.default]),
    "selective_everything": partial(selective, everything),
}


@scenario
def one_call(rank: int, _: int) -> Any:
    wraps = {"as_it_is": as_it_is, **WRAPS}
    return {name: trained(rank, wrap) for name, wrap in wraps.items()}


@scenario
def calls_in_flight(rank: int, _: int) -> Any:
    wraps = {"as_it_is": as_it_is, "reentrant": reentrant, "not_reentrant": not_reentrant}
    return {name: trained(rank, wrap, calls=2) for name, wrap in wraps.items()}


@scenario
def only_the_first_rank_needs_gradients(rank: int, _: int) -> Any:
    wraps = {"as_it_is": as_it_is, "not_reentrant": not_reentrant}
    return {name: trained(rank, wrap, needed=rank == 0) for name, wrap in wraps.items()}


class Reversible(torch.autograd.Function):
    """(a, b) -> (c, d) with c = a + f(b), d = b + g(c), of which only c and d are kept."""

    @staticmethod
    def forward(ctx: Any, f: nn.Module, g: nn.Module, a: Tensor, b: Tensor) -> Any:
        ctx.f, ctx.g = f, g
        c = a + f(b)
        d = b + g(c)
        ctx.save_for_backward(c, d)
        return c, d

    @staticmethod
    def backward(ctx: Any, dc: Tensor, dd: Tensor) -> Any:
        c, d = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
        with torch.enable_grad():
            of_c = ctx.g(c)
        of_c.backward(dd)
        dc = dc + c.grad
        b = (d - of_c).detach().requires_grad_()
        with torch.enable_grad():
            of_b = ctx.f(b)
        of_b.backward(dc)
        return None, None, dc, dd + b.grad


@scenario
def reversible(rank: int, _: int) -> Any:
    """Gradients and buffers, as autograd has them and as a reversible network has them."""
    results = []
    for is_reversible in (False, True):
        generator = torch.Generator().manual_seed(rank)
        f, g = blocks = blocks_of(5)
        leaves = torch.randn(2, 3 + 2 * rank, 5, generator=generator).double().requires_grad_()
        a, b = leaves.unbind()
        if is_reversible:
            c, d = Reversible.apply(f, g, a, b)
        else:
            c = a + f(b)
            d = b + g(c)
        (c * d).mean().backward()
        gradients = [leaves.grad, *[p.grad for p in blocks.parameters()]]
        results.append((gradients, dict(blocks.named_buffers())))
    return results
