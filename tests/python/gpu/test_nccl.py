"""Communicators over the real NCCL: one rank, and two on one device where NCCL allows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from layer_reference import exact_layer
from ranks import run_ranks

import syncnorm
from syncnorm.comm import from_nccl_id, nccl_group, nccl_unique_id
from syncnorm.torch import SyncBatchNorm

WORKER = Path(__file__).parent / "nccl_worker.py"
RANKS = 2
# From this version on several ranks may be on one device, where it is asked for.
SHARES_DEVICES = (2, 30)
SHARING = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0", "GLOO_SOCKET_IFNAME": "lo"}


def nccl_version() -> tuple[int, ...]:
    found = syncnorm.capabilities()["nccl"]
    assert found, "no NCCL was found; expected the nvidia-nccl package beside torch"
    return tuple(map(int, re.findall(r"\d+", found)[:3]))


@pytest.fixture(name="comm")
def communicator_of_one_rank() -> Iterator[syncnorm.Communicator]:
    with from_nccl_id(nccl_unique_id(), 0, 1, 0, init_timeout=60.0) as comm:
        yield comm


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def test_a_sum_of_one_rank(comm: syncnorm.Communicator) -> None:
    src = torch.randn(1000, dtype=torch.float64, device="cuda")
    dst = torch.zeros_like(src)
    comm.sum(src, dst, stream=stream())
    comm.wait(stream(), timeout=30.0)
    assert torch.equal(dst, src)


def test_a_group_of_all_devices() -> None:
    comms = nccl_group([0], init_timeout=60.0)
    assert [(comm.rank, comm.size, comm.kind) for comm in comms] == [(0, 1, "nccl")]
    comms[0].close()


def test_a_sum_in_a_captured_graph(comm: syncnorm.Communicator) -> None:
    src = torch.zeros(64, dtype=torch.float64, device="cuda")
    dst = torch.zeros_like(src)
    comm.sum(src, dst, stream=stream())  # connects the ranks, which a capture could not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        comm.sum(src, dst, stream=stream())
    for value in range(10):
        src.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert (dst == value).all()


def test_a_layer_over_a_communicator_of_one_rank(comm: syncnorm.Communicator) -> None:
    layer = SyncBatchNorm(6, device="cuda", dtype=torch.float64, process_group=comm)
    x = torch.randn(5, 6, 7, 7, device="cuda", dtype=torch.float64, requires_grad=True)
    dy = torch.randn_like(x)
    y = layer(x)
    y.backward(dy)
    exact = exact_layer(x, dy, layer.weight, layer.bias)
    torch.testing.assert_close(y.cpu(), exact.y, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(x.grad.cpu(), exact.dx, rtol=1e-11, atol=1e-11)


def test_two_ranks_on_one_device(tmp_path: Path) -> None:
    """Sums and layers where this NCCL allows it, else the refusal, on both ranks."""
    results = run_ranks(WORKER, RANKS, tmp_path, SHARING, timeout=120)
    if nccl_version() < SHARES_DEVICES:
        for result in results:
            assert result["error"].startswith("NcclError: "), result
            assert "device" in result["error"].lower()
        return
    xs = [result["x"] for result in results]
    dys = [result["dy"] for result in results]
    weight, bias = torch.ones(6), torch.zeros(6)
    exact = exact_layer(torch.cat(xs), torch.cat(dys), weight, bias)
    for name in ("eager", "replayed"):
        ys, dxs = ([result[name][i] for result in results] for i in range(2))
        torch.testing.assert_close(torch.cat(ys), exact.y, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(torch.cat(dxs), exact.dx, rtol=1e-11, atol=1e-11)
        assert torch.equal(results[0][name][2], results[1][name][2])
    for result in results:
        assert (result["sum"] == 1 + 2).all()
