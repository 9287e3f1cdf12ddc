"""A dry run on torch's "fake" process group: this rank's results are those of a group of one."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from syncnorm.torch import SyncBatchNorm


def trained(group_of_one: bool, compiled: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    alone = dist.new_group([0]) if group_of_one else None
    layer = SyncBatchNorm(3, dtype=torch.float64, process_group=alone, name="bn")
    call = torch.compile(layer, backend="aot_eager") if compiled else layer
    y = call(x)
    y.square().sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    return [y.detach(), x.grad, layer.weight.grad, layer.running_mean, layer.running_var]


dist.init_process_group("fake", rank=0, world_size=8, store=FakeStore())
for is_compiled in (False, True):
    expected = trained(group_of_one=True, compiled=False)
    for actual, value in zip(trained(False, is_compiled), expected, strict=True):
        torch.testing.assert_close(actual, value)
