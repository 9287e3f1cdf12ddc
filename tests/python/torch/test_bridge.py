"""The way to the core for torch versions without DLPack's C exchange API."""

from __future__ import annotations

import pytest
import torch

from syncnorm.torch import SyncBatchNorm, bridge


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_views_reach_the_core_like_tensors(
    monkeypatch: pytest.MonkeyPatch, memory_format: torch.memory_format
) -> None:
    results = []
    inputs = torch.randn(2, 3, 4, 5, 2)
    for through_views in [False, True]:
        if through_views:
            for name in ["sizes", "forward", "backward"]:
                function = bridge._through_views(getattr(bridge, name))
                monkeypatch.setattr(bridge, name, function)
        layer = SyncBatchNorm(4, activation="relu")
        x, residual = (t.to(memory_format=memory_format).requires_grad_() for t in inputs)
        mask = torch.arange(30).view(3, 5, 2) % 4 != 0
        y = layer(x, residual, mask)
        y.pow(2).sum().backward()
        results.append([y, x.grad, residual.grad, layer.weight.grad, *layer.buffers()])
    torch.testing.assert_close(*results, rtol=0, atol=0)
