"""The layers of other systems on a CUDA device, beside themselves in float64 on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from closeness import assert_rounded
from torch import Tensor, nn

from syncnorm.torch import encoding, megengine, mmcv, mxnet, paddle

CHANNELS = 24
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "mxnet": lambda: mxnet.SyncBatchNorm(CHANNELS),
    "paddle": lambda: paddle.SyncBatchNorm(CHANNELS),
    "encoding": lambda: encoding.BatchNorm2d(CHANNELS),
    "mmcv": lambda: mmcv.SyncBatchNorm(CHANNELS),
    "megengine": lambda: megengine.SyncBatchNorm(CHANNELS),
}


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """What a step of training leaves behind."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(dy)
    gradients = {f"{name} gradient": p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(layer.named_buffers())}


@pytest.mark.parametrize("system", LAYERS)
def test_a_step_on_the_device_is_that_on_the_cpu(system: str) -> None:
    layer = LAYERS[system]()
    exact = copy.deepcopy(layer).double()
    x, dy = torch.randn(2, 6, CHANNELS, 9, 7)
    got = step(layer.cuda(), x.cuda(), dy.cuda())
    expected = step(exact, x.double(), dy.double())
    values = x.numel() / CHANNELS
    for name, value in expected.items():
        if value.is_floating_point():
            terms = 8 * values if "gradient" in name else 8 * (1 + value.abs().max().item())
            assert_rounded(got[name].cpu(), value, torch.full_like(value, terms))
        else:
            assert got[name].cpu() == value


def test_given_statistics_and_their_gradients() -> None:
    inputs = [torch.randn(5, CHANNELS, 11), *torch.randn(3, CHANNELS), torch.rand(CHANNELS) + 0.5]
    dy = torch.randn(5, CHANNELS, 11)

    def run(place: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [place(each).requires_grad_() for each in inputs]
        y = encoding.batchnormtrain(*leaves)
        return [y, *torch.autograd.grad(y, leaves, place(dy))]

    for got, exact in zip(run(Tensor.cuda), run(Tensor.double), strict=True):
        terms = 8 * (55 + exact.abs().max().item())
        assert_rounded(got.cpu(), exact, torch.full_like(exact, terms))


def test_one_device_may_have_two_parts_of_a_batch() -> None:
    layers = nn.Sequential(
        encoding.SelfParallel(nn.Conv2d(3, CHANNELS, 3)),
        encoding.BatchNorm2d(CHANNELS),
    )
    x = torch.randn(5, 3, 8, 8, device="cuda", dtype=torch.float64)
    parallel = encoding.SelfDataParallel(layers.double(), ["cuda:0", "cuda:0"])
    plain = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.BatchNorm2d(CHANNELS)).double().cuda()
    plain.load_state_dict(layers.state_dict())
    torch.testing.assert_close(torch.cat(parallel(x)), plain(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layers.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
