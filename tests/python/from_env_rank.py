"""A rank that torchrun has started: what from_env and host_communicator give it, in a JSON file."""

from __future__ import annotations

import json
import os
import sys
from array import array
from pathlib import Path
from typing import Any
from unittest import mock

from support.cases import simple_case
from support.driver import Rank, forward_call, make_ranks
from support.scenarios import error_of
from syncnorm import Communicator, _core
from syncnorm.launcher import from_env, local_rank


def summed(comm: Communicator, *values: float) -> list[float]:
    src, dst = array("d", values), array("d", bytes(8 * len(values)))
    comm.sum(*(_core.Array(a, (len(a),), (1,), "float64") for a in (src, dst)))
    return list(dst)


def case_of(rank: int) -> Rank:
    return make_ranks(simple_case(batches=(2, 2), channels=5 + rank))[rank]


def before_torch_is_known(rank: int) -> dict[str, Any]:
    with from_env(timeout=120) as comm:
        return {
            "local rank": local_rank(),
            "place": [comm.rank, comm.size, comm.kind, list(comm.device_memory)],
            "sum": [summed(comm, rank, 1), summed(comm), summed(comm, *[rank] * 3000)[-1]],
        }


def with_groups_of_torch(rank: int) -> dict[str, Any]:
    import torch.distributed as dist

    from syncnorm.torch import host_communicator

    both = dist.new_group([0, 1], backend="gloo")
    own = dist.new_group([rank], use_local_synchronization=True)
    comm = host_communicator(timeout=60)
    with from_env() as again:
        return {
            "backend": dist.get_backend(),
            "again": summed(again, 1),
            "groups": [summed(host_communicator(group), rank, 1) for group in (both, own)],
            "other channels": error_of(lambda: forward_call(case_of(rank), comm)),
            "other lengths": error_of(lambda: summed(again, *[1] * (3000 + rank))),
            "split": error_of(lambda: again.split(0)),
            "text": error_of(lambda: host_communicator("world")),
            "communicator": error_of(lambda: host_communicator(again)),
        }


def over_nccl(rank: int) -> dict[str, Any]:
    """A creation that only records."""
    with mock.patch.multiple(
        _core,
        nccl_unique_id=lambda: os.urandom(128),
        nccl_communicator=lambda *given, **options: (given[0].hex(), given[1:], options),
    ):
        return {"nccl": from_env(5 + rank, timeout=7.0, max_ctas=1)}


def in_another_job() -> dict[str, Any]:
    with mock.patch.dict(os.environ, WORLD_SIZE="3"):
        return {"another job": error_of(from_env)}


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    found = before_torch_is_known(rank) | with_groups_of_torch(rank)
    found |= over_nccl(rank) | in_another_job()
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
