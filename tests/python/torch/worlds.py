"""Ranks that are processes over gloo: each runs a module of scenarios and saves what came out.

A module of scenarios has SCENARIOS: by name, functions of rank and size that every rank calls, in
their order.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

Scenario = Callable[[int, int], Any]

# The ranks are forks of a process that has imported what takes them longer than most scenarios.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["torch.distributed.tensor", "syncnorm.torch"])


class World:
    """What every rank of a world of this size returned for each scenario of a module."""

    def __init__(self, size: int, folder: Path, scenarios: str, timeout: float = 120.0) -> None:
        self.size = size
        meeting = folder / "meeting"
        logs = [folder / f"rank{rank}.log" for rank in range(size)]
        ranks = [
            _server.Process(target=_run_rank, args=(scenarios, rank, size, meeting, folder, log))
            for rank, log in enumerate(logs)
        ]
        for each in ranks:
            each.start()
        try:
            codes = _end_of(ranks, timeout)
        finally:
            for each in ranks:
                each.kill()
                each.join()
                each.close()
        assert codes == [0] * size, _text(logs)
        self.results = [torch.load(folder / f"rank{rank}.pt") for rank in range(size)]

    def __getitem__(self, scenario: str) -> list[Any]:
        return [results[scenario] for results in self.results]


def destroy(*groups: Any) -> None:
    """Destroy groups when every rank of the world is here; each calls it.

    A rank that still connects to the others, or waits for what they send, would find them gone.
    """
    dist.barrier()
    for group in groups:
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            dist.destroy_process_group(group)


def _end_of(ranks: list[Any], timeout: float) -> list[int | None]:
    """Wait for all ranks, or for the first that fails; their exit statuses, None: still at work."""
    deadline = time.monotonic() + timeout
    while True:
        codes = [rank.exitcode for rank in ranks]
        if any(codes) or None not in codes or time.monotonic() > deadline:
            return codes
        time.sleep(0.02)


def _text(logs: list[Path]) -> str:
    return "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs)


def _run_rank(scenarios: str, rank: int, size: int, meeting: Path, folder: Path, log: Path) -> None:
    with log.open("w") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    warnings.simplefilter("error")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # gloo meets on this machine only
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    module = importlib.import_module(scenarios)
    results = {name: run(rank, size) for name, run in module.SCENARIOS.items()}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
