"""Runs the measurements on ranks that are processes over gloo."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import multiprocessing

from syncnorm.bench import allocator

from .cases import RANKS
from .measure import Shape, alone_seconds, measure


def measure_on_ranks(shapes: Sequence[Shape], repeat: int) -> dict[str, Any]:
    """What the first rank measured, with its group and then without."""
    with tempfile.TemporaryDirectory(prefix="syncnorm-torch-layer-") as folder:
        # The ranks find this when they start; docs/benchmarks.md says why.
        with mock.patch.dict(os.environ, allocator.REUSE):
            multiprocessing.spawn(_rank, (folder, shapes, repeat), nprocs=RANKS)
        results: dict[str, Any] = pickle.loads((Path(folder) / "results").read_bytes())
        return results


def _rank(rank: int, folder: str, shapes: Sequence[Shape], repeat: int) -> None:
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name may lead nowhere
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=RANKS)
    results = measure(shapes, repeat)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        results["alone"] = {shape: alone_seconds(shape, repeat) for shape in shapes}
        (Path(folder) / "results").write_bytes(pickle.dumps(results))
