"""What each rank of test_lost_ranks.py does; it returns or prints what the test expects.

The ranks meet in a folder, where `mark` creates a file and `wait_for` waits for files: a rank that
ended would close its connections, from which the others learn without our help.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from scenarios_desync import batch, layer_of

from support.scenarios import error_of

# Seconds to wait for what happens within a few on a quiet machine.
PATIENCE = 120.0


def mark(folder: Path, event: str) -> None:
    (folder / event).touch()


def wait_for(folder: Path, events: Iterable[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    for event in events:
        while not (folder / event).exists():
            assert time.monotonic() < deadline, f"waited for {event}"
            time.sleep(0.02)


def init(folder: Path, rank: int, size: int, meeting: str = "meeting") -> None:
    place = f"file://{folder / meeting}"
    timeout = timedelta(seconds=10 * PATIENCE)  # of the group: nobody waits for it
    dist.init_process_group("gloo", place, timeout, rank=rank, world_size=size)


def _others_after(folder: Path, rank: int, size: int, lost: int, call: Callable[[], Any]) -> str:
    """Return the error of call on a rank that stays until all but `lost` have theirs."""
    error = error_of(call)
    mark(folder, f"raised {rank}")
    wait_for(folder, [f"raised {other}" for other in range(size) if other != lost])
    return error


def killed(folder: Path, rank: int, size: int, phase: str) -> tuple[str, str]:
    """The last rank dies while the others but rank 1 wait for it; rank 1 comes later."""
    init(folder, rank, size)
    layer = layer_of(4, "bn")
    y = layer(batch(4))
    call = y.sum().backward if phase == "backward" else lambda: layer(batch(4))
    if rank == size - 1:
        wait_for(folder, [f"ready {other}" for other in range(size - 1)])
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    mark(folder, f"ready {rank}")
    if rank == 1:
        time.sleep(2.0)
    error = _others_after(folder, rank, size, size - 1, call)
    return error, error_of(lambda: layer(batch(4)))


def interrupted(folder: Path, rank: int, size: int) -> tuple[str, str]:
    """Ctrl-C on rank 0 while it waits for the last rank, which comes when the others have failed.

    All train on in a new group.
    """
    init(folder, rank, size)
    layer = layer_of(4, "bn")
    layer(batch(4))
    dist.barrier()
    if rank == 0:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    if rank == size - 1:
        wait_for(folder, [f"raised {other}" for other in range(size - 1)])
        mark(folder, f"raised {rank}")
    error = _others_after(folder, rank, size, size, lambda: layer(batch(4)))
    again = error_of(lambda: layer(batch(4)))
    dist.destroy_process_group()
    init(folder, rank, size, "second meeting")
    layer(batch(4)).sum().backward()
    dist.barrier()
    return error, again


def frozen_store(folder: Path, rank: int, port: int) -> None:
    """Rank 0, which hosts the store, is stopped; rank 1 prints its error and exits."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    layer = layer_of(4, "bn", timeout=3.0)
    layer(batch(4))
    if rank == 0:
        mark(folder, "stopped")
        os.kill(os.getpid(), signal.SIGSTOP)
    wait_for(folder, ["stopped"])
    print(error_of(lambda: layer(batch(4))))
    print(error_of(lambda: layer(batch(4))))


if __name__ == "__main__":
    frozen_store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
