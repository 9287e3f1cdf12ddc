"""A dry run on torch's "fake" process group: this rank's results are those of a group of one."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from syncnorm.torch import SyncBatchNorm
from syncnorm.torch.groups.relative import GroupSize


def trained(group: Any, *, compiled: bool = False, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    layer = SyncBatchNorm(3, dtype=torch.float64, process_group=group, **options)
    call = torch.compile(layer, backend="aot_eager") if compiled else layer
    y = call(x)
    y.square().sum().backward()
    y = call(x[:1])
    y.square().sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    return [y.detach(), x.grad, layer.weight.grad, layer.running_mean, layer.running_var]


def second_order(group: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 3, requires_grad=True)
    y = SyncBatchNorm(3, process_group=group)(x)
    (gradient,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    return list(torch.autograd.grad(gradient.square().sum(), x))


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for actual, value in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, value)


backend, rank = sys.argv[1], int(sys.argv[2])
dist.init_process_group(backend, rank=rank, world_size=8, store=FakeStore())
alone = dist.new_group([rank])
groups = {
    "default": None,
    "ranks": list(range(8)),
    "some ranks": sorted({rank, 1}),
    "node": "node",
    "neighbours": GroupSize(4),
    "new": dist.new_group(sorted({rank, 0, 5})),
    "mesh": init_device_mesh("cpu", (2, 4), mesh_dim_names=("model", "data"))["data"],
}
for options in (
    {},
    {"name": "bn"},
    {"weighting": "equal", "variance_factor": "unbiased_rank"},
    {"centering": "off", "grad_reduction": "mean", "activation": "leaky_relu", "in_place": False},
    {"momentum": None, "timeout": 5.0},
):
    one = trained(alone, **options)
    for group in groups.values():
        assert_same(trained(group, **options), one)
    assert_same(trained(None, compiled=True, **options), one)
assert_same(second_order(None), second_order(alone))
many = SyncBatchNorm(3000)  # a wire that is longer than a frame
assert torch.isfinite(many(torch.randn(2, 3000))).all()
many(torch.randn(0, 3000))  # no data on this rank
