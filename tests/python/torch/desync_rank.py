"""One rank of a world that may lose ranks: `desync_rank.py SCENE INIT_METHOD RANK`.

SCENE `killed`: the last rank dies in the middle, the others print their error. `quiet`: a run
without errors, with a standstill that the watchdog publishes. Rank 0 destroys its group, which ends
its watchdog; the others exit with both.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import torch
import torch.distributed as dist
from scenarios_desync import batch, layer_of

from support.scenarios import error_of
from syncnorm.torch.groups.process_group import record_of

SIZE = 3


def killed(rank: int) -> None:
    y = layer_of(4, "bn")(batch(4))
    if rank == SIZE - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    print(error_of(y.sum().backward))


def quiet(rank: int) -> None:
    record_of(dist.group.WORLD).patience = 0.2
    layer_of(4, "bn", timeout=60.0)(batch(4)).sum().backward()
    (watchdog,) = [each for each in threading.enumerate() if each.name == "syncnorm-watchdog"]
    store = dist.group.WORLD.get_group_store()
    deadline = time.monotonic() + 60
    while not store.check([f"syncnorm/where/{rank}"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dist.barrier()
    if rank == 0:
        dist.destroy_process_group()
        watchdog.join(60)
        assert not watchdog.is_alive()


if __name__ == "__main__":
    torch.set_num_threads(1)
    scene, init, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    place = {} if init == "env://" else {"rank": rank, "world_size": SIZE}
    dist.init_process_group("gloo", init_method=init, **place)
    {"killed": killed, "quiet": quiet}[scene](rank)
