"""One rank of a gloo world whose ranks share a CUDA device. Arguments: rank, size, folder."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
import training_runs as runs
from torch.nn.parallel import DistributedDataParallel

from support.scenarios import error_of
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm

FORMATS = {
    "channels_first": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def train(sizes: list[int], memory_format: torch.memory_format) -> dict[str, torch.Tensor]:
    model = convert_sync_batchnorm(runs.convolutional_network(torch.float64)).cuda()
    parallel = DistributedDataParallel(model.to(memory_format=memory_format))
    data = [
        (x.cuda(), target.cuda())
        for x, target in runs.batches((3, 9, 9), sum(sizes), torch.float64)
    ]
    mine = runs.part(sizes, dist.get_rank())
    runs.train(parallel, data, mine, scale=float(len(sizes)), memory_format=memory_format)
    return {name: value.cpu() for name, value in model.state_dict().items()}


def batch(rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(3 + rank, 4, 5, 5, generator=generator).cuda()


def statistics(rank: int) -> dict[str, torch.Tensor]:
    layer = SyncBatchNorm(4, device="cuda")
    for step in range(3):
        layer(batch(10 * step + rank).to([torch.float32, torch.bfloat16][rank]))
    return {name: value.cpu() for name, value in layer.state_dict().items()}


def different_options(rank: int) -> tuple[bool, torch.Tensor, str, bool]:
    layer = SyncBatchNorm(4, eps=1e-5 if rank == 0 else 1e-3, device="cuda")
    y = layer(batch(rank))
    all_nan = bool(y.isnan().all())  # waits for the device, which has told the host by then
    same = SyncBatchNorm(4, device="cuda")
    error = error_of(lambda: same(batch(rank)))
    after = same(batch(rank))
    return all_nan, layer.running_var.cpu(), error, bool(after.isfinite().all())


def main(rank: int, size: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    results: dict[str, Any] = {
        f"{sizes} {layout}": train(getattr(runs, sizes)[size], memory_format)
        for sizes in ("EQUAL", "UNEQUAL", "WITH_EMPTY")
        for layout, memory_format in FORMATS.items()
    }
    results["statistics of 16 and 32 bits"] = statistics(rank)
    results["different options"] = different_options(rank)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
