"""A training script that knows nothing of syncnorm; its argument is the file for the results."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel


def main(path: str) -> None:
    torch.manual_seed(3)
    images = torch.randn(12, 3, 5, 4, dtype=torch.float64) * 3 + 1
    labels = torch.randn(12, 6, dtype=torch.float64)
    model: nn.Module = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 6)
    ).double()
    in_job = "RANK" in os.environ
    if in_job:
        dist.init_process_group("gloo")
        images = images.chunk(dist.get_world_size())[dist.get_rank()]
        labels = labels.chunk(dist.get_world_size())[dist.get_rank()]
        model = DistributedDataParallel(SyncBatchNorm.convert_sync_batchnorm(model))
        assert any(isinstance(each, SyncBatchNorm) for each in model.modules())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        (model(images) - labels).square().mean().backward()
        optimizer.step()
    model.eval()
    state = (model.module if in_job else model).state_dict()
    if not in_job or dist.get_rank() == 0:
        torch.save(state, path)
    if in_job:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
