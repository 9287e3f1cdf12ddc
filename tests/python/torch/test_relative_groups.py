"""Groups relative to a rank: neighbours in rank order, and the ranks of one machine."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scenarios_distributed import shard
from shard_reference import normalize_shards
from torch import Tensor
from worlds import World

import syncnorm
from syncnorm.torch import (
    LazySyncBatchNorm,
    SyncBatchNorm,
    convert_sync_batchnorm,
    sync_batch_norm,
)

EXACT = {"rtol": 1e-12, "atol": 1e-12}
PAIRS = [[0, 1], [0, 1], [2, 3], [2, 3]]


@pytest.fixture(name="world", scope="module")
def world_of_four(worlds) -> World:
    return worlds("scenarios_of_four", 4)


def normalized(rank: int, ranks: list[int]) -> Tensor:
    """What rank gets where these ranks are the group."""
    return normalize_shards([shard(r) for r in ranks]).ys[ranks.index(rank)]


def test_a_size_divides_the_world_into_neighbours(world: World) -> None:
    for rank, got in enumerate(world["neighbours"]):
        groups = [[rank], PAIRS[rank], [0, 1, 2, 3]]
        torch.testing.assert_close(got, [normalized(rank, each) for each in groups], **EXACT)


def test_all_layers_share_one_group(world: World) -> None:
    assert world["one_group_for_all_layers"] == [0] * 4


def test_ranks_may_create_their_layers_in_any_order(world: World) -> None:
    for rank, got in enumerate(world["layers_created_in_another_order"]):
        groups = [PAIRS[rank], [0, 1, 2, 3], [rank]]
        torch.testing.assert_close(got, [normalized(rank, each) for each in groups], **EXACT)


def test_every_way_to_a_group_size(world: World) -> None:
    for rank, got in enumerate(world["every_way_to_a_group_size"]):
        torch.testing.assert_close(got, [normalized(rank, PAIRS[rank])] * 4, **EXACT)


def test_copies_and_pickles_have_the_size(world: World) -> None:
    for rank, got in enumerate(world["copies_of_neighbours"]):
        torch.testing.assert_close(got, [normalized(rank, PAIRS[rank])] * 3, **EXACT)


def test_a_group_that_was_destroyed_is_created_again(world: World) -> None:
    for rank, got in enumerate(world["neighbours_after_their_group_was_destroyed"]):
        torch.testing.assert_close(got, normalized(rank, PAIRS[rank]), **EXACT)


def test_a_size_that_does_not_divide_the_world_is_refused_in_training(world: World) -> None:
    for errors in world["sizes_that_do_not_divide"]:
        assert errors == [
            f"InvalidArgumentError: group_size: got {size}, expected a divisor of the world size, 4"
            for size in (3, 8)
        ]


def test_ranks_of_one_host_are_a_machine(world: World) -> None:
    for rank, got in enumerate(world["machines_by_exchange"]):
        ranks = [1] if rank == 1 else [0, 2, 3]
        torch.testing.assert_close(got, [normalized(rank, ranks)] * 2, **EXACT)


@pytest.mark.parametrize("scenario", ["machines_of_torchrun", "environment_of_other_ranks"])
def test_the_environment_of_torchrun(world: World, scenario: str) -> None:
    for rank, got in enumerate(world[scenario]):
        torch.testing.assert_close(got, normalized(rank, PAIRS[rank]), **EXACT)


def test_an_environment_that_contradicts_the_hosts_is_refused(world: World) -> None:
    *contradicted, third, fourth = world["environment_that_contradicts_the_hosts"]
    for error in contradicted:
        assert error.startswith("InvalidArgumentError: process_group: got 'node', and RANK, LOCAL_")
        assert "name the ranks 0-1 as those of this machine" in error
        lines = error.splitlines()[1:]
        assert lines == [f"  rank {r}: host {h}, ranks 0-1" for r, h in enumerate("ab")]
    assert (third, fourth) == ("no error", "no error")


def test_dialects_take_the_ranks_of_a_machine(world: World) -> None:
    for rank, got in enumerate(world["dialects_of_a_machine"]):
        torch.testing.assert_close(got, [normalized(rank, PAIRS[rank])] * 3, **EXACT)


def test_dialects_take_a_size(world: World) -> None:
    for rank, got in enumerate(world["dialects_of_a_size"]):
        torch.testing.assert_close(got, [normalized(rank, PAIRS[rank])] * 7, **EXACT)


def test_the_processes_of_this_machine(world: World) -> None:
    for rank, got in enumerate(world["this_machine"]):
        torch.testing.assert_close(got, normalized(rank, [0, 1, 2, 3]), **EXACT)


def test_without_torch_distributed_a_machine_is_this_process() -> None:
    x = shard(0)
    for options in ({"process_group": "node"}, {"group_size": 1}):
        layer = SyncBatchNorm(4, dtype=torch.float64, **options)
        torch.testing.assert_close(layer(x), normalized(0, [0]), **EXACT)


def test_without_torch_distributed_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size, 1; torch\.distributed is not initialized"):
        SyncBatchNorm(4, group_size=2)(torch.ones(3, 4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"group_size": 0}, ValueError, "group_size: got 0, expected 1 or more ranks"),
        ({"group_size": -2}, ValueError, "group_size: got -2, expected 1 or more ranks"),
        ({"group_size": 2.0}, TypeError, "group_size: got 2.0, expected a number of ranks, or N"),
        ({"group_size": True}, TypeError, "group_size: got True, expected a number of ranks"),
        (
            {"group_size": 2, "process_group": [0, 1]},
            ValueError,
            "group_size: got 2 and a process_group, expected one of them",
        ),
    ],
)
def test_refused_sizes(options: dict, error: type[Exception], message: str) -> None:
    for make in (
        lambda: SyncBatchNorm(4, **options),
        lambda: LazySyncBatchNorm(**options),
        lambda: convert_sync_batchnorm(torch.nn.BatchNorm1d(4), **options),
        lambda: sync_batch_norm(torch.ones(3, 4), training=True, **options),
    ):
        with pytest.raises(error, match=message) as raised:
            make()
        assert isinstance(raised.value, syncnorm.Error)


def test_a_repr_shows_them() -> None:
    assert ", group_size=2" in repr(SyncBatchNorm(4, group_size=2))
    assert ", process_group='node'" in repr(SyncBatchNorm(4, process_group="node"))
    lazy = LazySyncBatchNorm(group_size=2, freeze=True)
    assert repr(lazy).endswith(", group_size=2, freeze=True)")
    assert "group" not in repr(SyncBatchNorm(4, process_group=[0, 1]))


def test_a_layer_that_was_saved_without_torch_distributed_has_its_group() -> None:
    layers = [SyncBatchNorm(4, group_size=2), SyncBatchNorm(4, process_group="node")]
    loaded = [repr(pickle.loads(pickle.dumps(layer))) for layer in layers]
    assert loaded == [repr(layer) for layer in layers]


def test_each_agent_of_torchrun_is_a_node(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    where = ["--master-addr", "127.0.0.1", "--master-port", str(port), "--nproc-per-node", "2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    program = [Path(__file__).with_name("node_rank.py"), tmp_path]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    agents = [
        subprocess.Popen(
            [*launcher, "--node-rank", str(node), *where, *program],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    errors = [agent.communicate(timeout=150)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "".join(errors)
    found = [json.loads(Path(tmp_path, f"{rank}.json").read_text()) for rank in range(4)]
    assert [each["place"] for each in found] == [[rank % 2, 2] for rank in range(4)]


def test_a_layer_may_change_its_size() -> None:
    layer = SyncBatchNorm(3, process_group="node")
    assert layer.group_size is None
    layer.group_size = 4
    assert "group_size=4" in repr(layer)
    layer.group_size = None
    assert layer.process_group is None
    with pytest.raises(syncnorm.InvalidArgumentError, match="group_size: got 0"):
        layer.group_size = 0
