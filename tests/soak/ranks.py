"""Runs the training on ranks that are processes or threads, and once on one process alone."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from syncnorm import Communicator
from syncnorm.comm import thread_group

from .training import Sample, train

TIMEOUT = 120.0  # seconds that a rank waits for the others


@dataclass(frozen=True)
class Plan:
    ranks: int
    steps: int
    every: int
    seed: int


def run_on_processes(plan: Plan) -> tuple[list[list[Sample]], list[Sample]]:
    """Return the samples of each rank, and those of one process with the joined batches."""
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="syncnorm-soak-") as folder,
        ProcessPoolExecutor(plan.ranks + 1, spawn) as pool,
    ):
        ranks = [pool.submit(_run_process, rank, plan, folder) for rank in range(plan.ranks)]
        alone = pool.submit(_run_alone, plan)
        return _results(ranks), alone.result()


def run_on_threads(plan: Plan) -> tuple[list[list[Sample]], list[Sample]]:
    """Return the samples of each rank, and those of this process with the joined batches."""
    alone = _run_alone(plan)
    group = thread_group(plan.ranks, timeout=TIMEOUT)
    with ThreadPoolExecutor(plan.ranks) as pool:
        ranks = [pool.submit(_run_thread, comm, plan) for comm in group]
        return _results(ranks), alone


def _results(ranks: list[Future[list[Sample]]]) -> list[list[Sample]]:
    return [rank.result() for rank in ranks]


def _run_alone(plan: Plan) -> list[Sample]:
    torch.set_num_threads(1)
    (comm,) = thread_group(1)
    return train(comm, rank=0, size=1, **vars(plan))


def _run_process(rank: int, plan: Plan, folder: str) -> list[Sample]:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host name may not resolve
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=plan.ranks,
        timeout=timedelta(seconds=TIMEOUT),
    )
    progress = _print_progress if rank == 0 else None
    samples = train(None, rank=rank, size=plan.ranks, progress=progress, **vars(plan))
    dist.barrier()
    dist.destroy_process_group()
    return samples


def _run_thread(comm: Communicator, plan: Plan) -> list[Sample]:
    progress = _print_progress if comm.rank == 0 else None
    with comm:
        return train(comm, rank=comm.rank, size=comm.size, progress=progress, **vars(plan))


def _print_progress(sample: Sample) -> None:
    print(
        f"step {sample.step}: {sample.seconds:.0f} s, RSS {sample.rss / 2**20:.1f} MiB,"
        f" {sample.descriptors} descriptors, {sample.threads} threads",
        file=sys.stderr,
        flush=True,
    )
