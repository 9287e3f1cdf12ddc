"""One of two ranks on the same device, over NCCL. Arguments: rank, size, folder."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist

import syncnorm
from syncnorm.comm import nccl_from_store
from syncnorm.torch import SyncBatchNorm


def inputs(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    shape = (3 + rank, 6, 5, 5)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).cuda() for _ in range(2)
    )


def layer_step(
    layer: SyncBatchNorm, x: torch.Tensor, dy: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    y = layer(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    return y, dx


def measured(rank: int, comm: syncnorm.Communicator) -> dict[str, Any]:
    x, dy = inputs(rank)
    src = torch.full((100,), 1.0 + rank, dtype=torch.float64, device="cuda")
    dst = torch.zeros_like(src)
    comm.sum(src, dst, stream=torch.cuda.current_stream().cuda_stream)
    layer = SyncBatchNorm(6, device="cuda", dtype=torch.float64, process_group=comm)
    leaf = x.clone().requires_grad_()
    eager = (*layer_step(layer, leaf, dy), layer.running_var.clone())

    buffer, given = torch.zeros_like(x).requires_grad_(), torch.zeros_like(dy)
    layer = SyncBatchNorm(6, device="cuda", dtype=torch.float64, process_group=comm)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        y, dx = layer_step(layer, buffer, given)
    layer.reset_running_stats()
    with torch.no_grad():
        buffer.copy_(x)
        given.copy_(dy)
    graph.replay()
    torch.cuda.synchronize()
    replayed = (y, dx, layer.running_var)
    return {"sum": dst, "x": x, "dy": dy, "eager": eager, "replayed": replayed}


def to_cpu(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(to_cpu(item) for item in value)
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


def main(rank: int, size: int, folder: str) -> None:
    torch.cuda.init()
    store = dist.FileStore(f"{folder}/store", size)
    try:
        with nccl_from_store(store, rank, size, 0, init_timeout=60.0, max_ctas=2) as comm:
            results = measured(rank, comm)
    except syncnorm.NcclError as error:
        results = {"error": f"{type(error).__name__}: {error}"}
    torch.save({name: to_cpu(value) for name, value in results.items()}, f"{folder}/rank{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
