"""from_env and host_communicator in processes that torchrun has started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("from_env_rank.py")


@pytest.fixture(name="ranks", scope="module")
def what_two_ranks_found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    options = ["--standalone", "--nproc-per-node", "2", PROGRAM, folder]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(2)]


def test_the_whole_job(ranks):
    for rank, found in enumerate(ranks):
        assert found["local rank"] == rank
        assert found["place"] == [rank, 2, "callback", ["cpu"]]
        assert found["sum"] == [[1, 2], [], 1]


def test_the_default_group_is_made_once(ranks):
    for found in ranks:
        assert (found["backend"], found["again"]) == ("gloo", [2])


def test_the_id_of_nccl_travels_over_the_default_group(ranks):
    ids = set()
    for rank, found in enumerate(ranks):
        id, place, options = found["nccl"]
        ids.add(id)
        assert place == [rank, 2, 5 + rank]
        assert options == {"sum_timeout": 7.0, "max_ctas": 1}
    assert len(ids) == 1


def test_groups_of_torch(ranks):
    assert [found["groups"] for found in ranks] == [[[1, 2], [rank, 1]] for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("other channels", "DesyncError: the 2 ranks of the group are not in the same call"),
        ("other lengths", "DesyncError: the 2 ranks of the group are not in the same call"),
        ("split", "UnsupportedError: this callback communicator cannot be split"),
        ("text", "ArgumentTypeError: process_group: got str"),
        ("communicator", "ArgumentTypeError: process_group: got a syncnorm.Communicator"),
        ("another job", "InvalidArgumentError: environment: RANK="),
    ],
)
def test_what_is_refused(ranks, name, start):
    for found in ranks:
        assert found[name].startswith(start)


def test_a_group_that_is_not_the_job_is_named(ranks):
    for rank, found in enumerate(ranks):
        assert f"RANK={rank}, WORLD_SIZE=3, but this is rank {rank} of 2" in found["another job"]
