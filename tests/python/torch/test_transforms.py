"""Forward-mode derivatives, torch.func and batches of gradients are refused, and say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call

import syncnorm
from syncnorm.torch import SyncBatchNorm, sync_batch_norm_shards

# torch's own forward mode loads torch.jit, which warns; from 2.15 on with another class.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*torch.jit.*is deprecated:{kind}")
    for kind in ("DeprecationWarning", "FutureWarning")
]

EVERY_MODE = pytest.mark.parametrize("training", [True, False])

TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], object]] = {
    "vmap": lambda layer, x: torch.vmap(layer)(torch.stack([x, x])),
    "grad": lambda layer, x: torch.func.grad(lambda x: layer(x).sum())(x),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,)),
    "jacrev": lambda layer, x: torch.func.jacrev(layer)(x),
    "hessian": lambda layer, x: torch.func.hessian(lambda x: layer(x).sum())(x),
}


def shard_of_one(x: Tensor) -> Tensor:
    return sync_batch_norm_shards([x])[0]


@EVERY_MODE
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_torch_func(transform: str, training: bool) -> None:
    layer = SyncBatchNorm(3).train(training)
    for function in (layer, shard_of_one):
        with pytest.raises(syncnorm.UnsupportedError, match=r"torch\.func.*torch\.autograd\.grad"):
            TRANSFORMS[transform](function, torch.randn(4, 3))
    assert layer.num_batches_tracked.item() == 0


@EVERY_MODE
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("dual", ["input", "residual", "weight", "bias"])
def test_a_tangent_is_not_lost_without_a_word(dual: str, recorded: bool, training: bool) -> None:
    layer = SyncBatchNorm(3).train(training)
    tensors = {"input": torch.randn(4, 3), "residual": torch.randn(4, 3)}
    tensors |= {name: parameter.detach() for name, parameter in layer.named_parameters()}
    with forward_ad.dual_level(), torch.set_grad_enabled(recorded):
        tensors[dual] = forward_ad.make_dual(tensors[dual], torch.ones_like(tensors[dual]))
        input, residual = tensors.pop("input"), tensors.pop("residual")
        with pytest.raises(syncnorm.UnsupportedError, match="dual tensor of forward-mode"):
            functional_call(layer, tensors, (input, residual))


@EVERY_MODE
def test_tensors_without_a_tangent_pass(training: bool) -> None:
    layer = SyncBatchNorm(3).train(training)
    x = torch.randn(4, 3)
    parameters = dict(layer.named_parameters())
    with forward_ad.dual_level():
        y = functional_call(layer, parameters, (x,))
    torch.testing.assert_close(y, SyncBatchNorm(3).train(training)(x), rtol=0, atol=0)


@EVERY_MODE
@pytest.mark.parametrize("create_graph", [True, False])
def test_a_batch_of_gradients(create_graph: bool, training: bool) -> None:
    x = torch.randn(4, 3, requires_grad=True)
    dys = torch.randn(2, 4, 3)
    for y in (SyncBatchNorm(3).train(training)(x), shard_of_one(x)):
        with pytest.raises(syncnorm.UnsupportedError, match="is_grads_batched"):
            torch.autograd.grad(y, x, dys, is_grads_batched=True, create_graph=create_graph)


def test_a_batch_of_second_gradients() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(SyncBatchNorm(3)(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(syncnorm.UnsupportedError, match="is_grads_batched"):
        torch.autograd.grad(dx, x, torch.randn(2, 4, 3), is_grads_batched=True)


def test_a_gradient_with_a_tangent() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = SyncBatchNorm(3)(x)
    with forward_ad.dual_level():
        dy = forward_ad.make_dual(torch.randn(4, 3), torch.randn(4, 3))
        with pytest.raises(syncnorm.UnsupportedError, match="dual tensor of forward-mode"):
            torch.autograd.grad(y, x, dy)
