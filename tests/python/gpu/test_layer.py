"""The torch layer on a CUDA device, in one process, beside the layer in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from closeness import assert_rounded
from layer_reference import Exact, exact_layer
from layouts import LAYOUTS, laid_out
from torch import Tensor, nn

from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm

# A matrix, a sequence, images with whole and with broken packs, a volume.
SHAPES = [(300, 40), (7, 5, 33), (4, 24, 14, 14), (3, 7, 9, 11), (2, 6, 5, 6, 7)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def layer_of(channels: int, dtype: torch.dtype, **options: object) -> SyncBatchNorm:
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    layer = SyncBatchNorm(channels, device="cuda", dtype=parameters, **options)
    nn.init.uniform_(layer.weight, 0.5, 2.0)
    nn.init.normal_(layer.bias)
    return layer


def tensor(shape: tuple[int, ...], dtype: torch.dtype, layout: str, offset: float = 0.0) -> Tensor:
    return laid_out((torch.randn(shape, device="cuda") + offset).to(dtype), layout)


def assert_exact(layer: SyncBatchNorm, x: Tensor, y: Tensor, exact: Exact, terms: Tensor) -> None:
    """terms: the magnitude of what is added up in y and dx."""
    assert y.dtype == x.dtype
    assert y.stride() == x.stride()
    assert x.grad.stride() == x.stride()
    assert_rounded(y.cpu(), exact.y, terms)
    assert_rounded(x.grad.cpu(), exact.dx, terms * exact.invstd.max(), k=16)
    count = torch.full((), x.numel() / x.shape[1])
    spread = count * terms.max()
    assert_rounded(layer.weight.grad.cpu(), exact.dweight, spread)
    assert_rounded(layer.bias.grad.cpu(), exact.dbias, spread)
    unbiased = exact.var * count / (count - 1)
    assert_rounded(layer.running_mean.cpu(), 0.1 * exact.mean, terms.max())
    assert_rounded(layer.running_var.cpu(), 0.9 + 0.1 * unbiased, terms.max(), k=32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_equals_float64(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    layer = layer_of(shape[1], dtype)
    x, dy = tensor(shape, dtype, layout, 1.5).requires_grad_(), tensor(shape, dtype, layout)
    y = layer(x)
    y.backward(dy)
    exact = exact_layer(x, dy, layer.weight, layer.bias)
    terms = 2 * (4 + exact.y.abs().max() + dy.abs().max().cpu().double())
    assert_exact(layer, x, y, exact, terms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_residual_and_relu(layout: str, dtype: torch.dtype) -> None:
    shape = (4, 24, 14, 14)
    layer = layer_of(24, dtype, activation="relu")
    x, residual = (tensor(shape, dtype, layout).requires_grad_() for _ in range(2))
    dy = tensor(shape, dtype, layout)
    y = layer(x, residual)
    y.backward(dy)
    exact = exact_layer(x, dy, layer.weight, layer.bias, residual=residual, relu=True)
    terms = 2 * (4 + exact.y.abs().max() + dy.abs().max().cpu().double())
    assert_exact(layer, x, y, exact, terms)
    torch.testing.assert_close(residual.grad.cpu().double(), exact.dresidual)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_evaluation_uses_the_running_statistics(layout: str) -> None:
    layer = layer_of(6, torch.float32).eval()
    nn.init.normal_(layer.running_mean)
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    theirs = nn.BatchNorm2d(6).cuda().eval()
    theirs.load_state_dict(layer.state_dict())
    x = tensor((5, 6, 7, 9), torch.float32, layout)
    torch.testing.assert_close(layer(x), theirs(x))


def test_the_bits_are_those_of_every_other_run() -> None:
    layer = layer_of(48, torch.float16)
    x = tensor((8, 48, 30, 31), torch.float16, "channels_first").requires_grad_()
    first: list[Tensor] = []
    for _ in range(20):
        again = copy.deepcopy(layer)
        y = again(x)
        (dx,) = torch.autograd.grad(y.float().square().sum(), x)
        results = [y.detach(), dx, again.running_mean, again.running_var]
        first = first or results
        for got, expected in zip(results, first, strict=True):
            assert torch.equal(got, expected)


def test_the_work_goes_to_the_current_stream() -> None:
    """An input that a side stream makes late is not read early."""
    layer = layer_of(16, torch.float32)
    source = tensor((64, 16, 56, 56), torch.float32, "channels_first", 3.0)
    expected = copy.deepcopy(layer)(source)
    x = torch.zeros_like(source)
    slow = torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(10):
            slow = slow @ slow
            slow = slow / slow.norm()
        x.copy_(source)
        y = layer(x)
    stream.synchronize()
    assert torch.equal(y, expected)


def test_a_converted_network_trains_like_torch_s() -> None:
    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 8, 3),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.Linear(8 * 12 * 12, 10),
        ).to("cuda", torch.float64)

    networks = [network(), convert_sync_batchnorm(network())]
    batches = torch.randn(5, 6, 3, 16, 16, device="cuda", dtype=torch.float64)
    for model in networks:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x in batches:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    states = [model.state_dict() for model in networks]
    torch.testing.assert_close(states[1], states[0], rtol=1e-8, atol=1e-8)


def test_an_empty_batch() -> None:
    layer = layer_of(6, torch.float32)
    x = torch.zeros(0, 6, 4, 4, device="cuda", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert not layer.weight.grad.any()
    assert torch.equal(layer.running_var, torch.ones_like(layer.running_var))


def test_peak_memory_is_the_output_and_little_more() -> None:
    layer = layer_of(64, torch.float16)
    x = tensor((32, 64, 56, 56), torch.float16, "channels_first")
    layer(x)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    layer(x)
    more = torch.cuda.max_memory_allocated() - before
    assert more < x.nbytes + (4 << 20)
