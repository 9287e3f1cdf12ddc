"""What the torch layer promises on a CUDA device beyond its numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from shard_reference import normalize_shards
from torch import Tensor, nn

from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm, sync_batch_norm_shards

SHAPE = (4, 24, 14, 14)


@pytest.fixture(name="synchronizing_is_an_error")
def torch_refuses_to_synchronize() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def step(layer: SyncBatchNorm, x: Tensor, dy: Tensor, **inputs: Tensor) -> tuple[Tensor, ...]:
    y = layer(x, **inputs)
    return y, *torch.autograd.grad(y, [x, *layer.parameters()], dy)


def pair(shape: tuple[int, ...] = SHAPE, **kind: Any) -> tuple[Tensor, Tensor]:
    x, dy = (torch.randn(shape, device="cuda", **kind) for _ in range(2))
    return x.requires_grad_(), dy


@pytest.mark.parametrize(
    ("options", "dtype", "extras"),
    [
        ({}, torch.float32, []),
        ({"momentum": None}, torch.float16, []),
        ({"affine": False, "track_running_stats": False}, torch.bfloat16, []),
        ({"activation": "relu"}, torch.float32, ["residual"]),
        ({"weighting": "batch"}, torch.float32, ["mask"]),
        ({"centering": "on"}, torch.float32, []),
    ],
    ids=str,
)
def test_training_does_not_wait_for_the_device(
    options: dict[str, Any],
    dtype: torch.dtype,
    extras: list[str],
    request: pytest.FixtureRequest,
) -> None:
    layer = SyncBatchNorm(SHAPE[1], device="cuda", **options)
    x, dy = pair(dtype=dtype)
    made = {
        "residual": torch.randn_like(dy),
        "mask": torch.rand(SHAPE[0], *SHAPE[2:], device="cuda") > 0.3,
    }
    inputs = {name: made[name] for name in extras}
    step(layer, x, dy, **inputs)  # makes what the stream keeps
    torch.cuda.synchronize()
    request.getfixturevalue("synchronizing_is_an_error")
    for _ in range(2):
        step(layer, x, dy, **inputs)
    layer.eval()
    layer(x)


def test_autocast_gives_16_bits_and_keeps_float32_parameters() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).cuda()
    network = convert_sync_batchnorm(network)
    x = torch.randn(5, 3, 12, 12, device="cuda")
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            y = network(x)
        assert y.dtype == dtype
        y.float().square().mean().backward()
        assert network[1].weight.grad.dtype == torch.float32
        assert network[1].running_var.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_of_16_bits(dtype: torch.dtype) -> None:
    layer = SyncBatchNorm(SHAPE[1]).to("cuda", dtype)
    x, dy = pair(dtype=dtype)
    y, dx, dweight, dbias = step(layer, x, dy)
    assert {t.dtype for t in (y, dx, dweight, dbias, layer.running_mean)} == {dtype}
    (expected,) = normalize_shards([x.detach()]).ys
    torch.testing.assert_close(y, expected.to(dtype), rtol=1e-2, atol=1e-2)


def test_second_derivatives_are_those_of_the_cpu() -> None:
    layer = SyncBatchNorm(6, device="cuda", dtype=torch.float64)
    nn.init.uniform_(layer.weight)
    x, dy = pair((5, 6, 4, 4), dtype=torch.float64)

    def penalty(layer: SyncBatchNorm, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        (dx,) = torch.autograd.grad(layer(x), x, dy, create_graph=True)
        return torch.autograd.grad(dx.pow(3).sum(), [x, layer.weight])

    got = penalty(layer, x, dy)
    expected = penalty(copy.deepcopy(layer).cpu(), x.detach().cpu().requires_grad_(), dy.cpu())
    torch.testing.assert_close([t.cpu() for t in got], list(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_equals_eager_code(backend: str) -> None:
    layer = SyncBatchNorm(SHAPE[1], device="cuda")
    compiled = torch.compile(copy.deepcopy(layer), backend=backend, fullgraph=True)
    x, dy = pair()
    y = layer(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    compiled_y = compiled(x)
    (compiled_dx,) = torch.autograd.grad(compiled_y, x, dy)
    torch.testing.assert_close(compiled_y, y)
    torch.testing.assert_close(compiled_dx, dx)


def test_shards_of_which_one_is_empty_are_captured() -> None:
    """What one empty rank did to graphs elsewhere: NaN on all ranks."""
    xs = [torch.zeros(n, 6, 5, 5, device="cuda") for n in (3, 0, 2)]
    mean, var = torch.zeros(6, device="cuda"), torch.ones(6, device="cuda")
    count = torch.zeros((), dtype=torch.int64, device="cuda")

    def normalize() -> list[Tensor]:
        return sync_batch_norm_shards(xs, mean, var, momentum=None, num_batches_tracked=count)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        normalize()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ys = normalize()
    for buffer, value in ((mean, 0), (var, 1), (count, 0)):
        buffer.fill_(value)
    means = []
    for replay in range(1, 4):
        for x in xs:
            x.normal_(replay)
        graph.replay()
        exact = normalize_shards(xs)
        means.append(exact.mean)
        torch.testing.assert_close(
            ys, [y.float() for y in exact.ys], rtol=1e-5, atol=1e-5, equal_nan=False
        )
        torch.testing.assert_close(mean, torch.stack(means).mean(0).float())
        assert count.item() == replay
