"""Layers in torch.cuda.CUDAGraph: captured once, replayed on other data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from syncnorm.torch import SyncBatchNorm


class Captured:
    """Forward and backward of a layer on fixed buffers, as one graph."""

    def __init__(self, layer: SyncBatchNorm, shape: tuple[int, ...]) -> None:
        self.layer = layer
        self.x = torch.zeros(shape, device="cuda", requires_grad=True)
        self.dy = torch.zeros(shape, device="cuda")
        before = copy.deepcopy(layer.state_dict())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # as torch asks for, before a capture
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.y, self.dx = self._step()
        layer.load_state_dict(before)

    def _step(self) -> tuple[Tensor, Tensor]:
        y = self.layer(self.x)
        (dx,) = torch.autograd.grad(y, self.x, self.dy)
        return y, dx

    def replay(self, x: Tensor, dy: Tensor) -> None:
        with torch.no_grad():
            self.x.copy_(x)
            self.dy.copy_(dy)
        self.graph.replay()


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", [(8, 5, 90, 91), (4, 64, 14, 14), (512, 24)], ids=str)
def test_replays_equal_eager_calls(shape: tuple[int, ...], momentum: float | None) -> None:
    layer = SyncBatchNorm(shape[1], momentum=momentum, device="cuda")
    eager = copy.deepcopy(layer)
    captured = Captured(layer, shape)
    for step in range(20):
        x, dy = torch.randn(shape, device="cuda") + step, torch.randn(shape, device="cuda")
        captured.replay(x, dy)
        leaf = x.requires_grad_()
        y = eager(leaf)
        (dx,) = torch.autograd.grad(y, leaf, dy)
        assert torch.equal(captured.y, y)
        assert torch.equal(captured.dx, dx)
        for name, value in eager.state_dict().items():
            assert torch.equal(layer.state_dict()[name], value), name


def test_an_empty_batch_is_captured_and_changes_nothing() -> None:
    layer = SyncBatchNorm(6, device="cuda")
    captured = Captured(layer, (0, 6, 4, 4))
    for _ in range(3):
        captured.graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(layer.running_var, torch.ones(6, device="cuda"))
    assert layer.num_batches_tracked.item() == 0
