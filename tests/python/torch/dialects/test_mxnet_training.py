"""The parameters of mxnet's layer: which have gradients, and those of global statistics."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from syncnorm.torch.mxnet import SyncBatchNorm


def test_without_scale_and_center_nothing_gets_a_gradient() -> None:
    layer = SyncBatchNorm(3, scale=False, center=False, beta_initializer=2.0, dtype=torch.float64)
    assert not layer.gamma.requires_grad
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert (layer.gamma.grad, layer.beta.grad) == (None, None)
    torch.testing.assert_close(y.mean(0), torch.full((3,), 2.0, dtype=torch.float64))


def test_gamma_stays_one_whatever_a_state_dict_has() -> None:
    state = SyncBatchNorm(3, gamma_initializer=5.0, beta_initializer=2.0).state_dict()
    layer, plain = SyncBatchNorm(3, scale=False), SyncBatchNorm(3, beta_initializer=2.0)
    layer.load_state_dict(state, strict=True)
    x = torch.randn(4, 3)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.gamma, torch.ones(3))
    assert torch.equal(layer.beta, torch.full((3,), 2.0))


def test_global_statistics_have_the_gradients_of_their_formula() -> None:
    layer = SyncBatchNorm(3, use_global_stats=True, dtype=torch.float64)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}

    def function(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return functional_call(layer, {"gamma": gamma, "beta": beta}, (x,))

    leaves = [torch.randn(shape, dtype=torch.float64) for shape in [(4, 3, 2), (3,), (3,)]]
    assert torch.autograd.gradcheck(function, [leaf.requires_grad_() for leaf in leaves])
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)
