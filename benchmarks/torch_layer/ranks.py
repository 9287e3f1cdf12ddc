"""Start the rank processes, which communicate over gloo, and return their measurements."""

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

from syncnorm.bench.allocator import REUSE_VARIABLES

from .cases import RANKS
from .measurements import Shape, measure, time_without_group


def measure_on_ranks(shapes: Sequence[Shape], repeat: int) -> dict[str, Any]:
    """Run all measurements on `RANKS` ranks.

    Args:
        shapes: Shapes of x for the CPU times.
        repeat: Rounds per timing.

    Returns:
        The results of rank 0: those of `measure`, and "alone", measured without a process group.
    """
    with tempfile.TemporaryDirectory(prefix="syncnorm-torch-layer-") as folder:
        with mock.patch.dict(os.environ, REUSE_VARIABLES):  # the processes inherit them
            multiprocessing.spawn(_run_rank, (folder, shapes, repeat), nprocs=RANKS)
        results: dict[str, Any] = pickle.loads((Path(folder) / "results").read_bytes())
        return results


def _run_rank(rank: int, folder: str, shapes: Sequence[Shape], repeat: int) -> None:
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host name may not resolve
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=RANKS)
    results = measure(shapes, repeat)
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        results["alone"] = {shape: time_without_group(shape, repeat) for shape in shapes}
        (Path(folder) / "results").write_bytes(pickle.dumps(results))
