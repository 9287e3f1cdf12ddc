"""Ranks that disagree, or wait in vain, are told where each of them was."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import hang_help_rank
import pytest
import torch
from hang_help_rank import SIZE
from scenarios_hang_help import batch, layer_of
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from worlds import World

from support.scenarios import error_of
from syncnorm import Communicator
from syncnorm.torch.group import TorchGroup
from syncnorm.torch.hang_help.calls import Record
from syncnorm.torch.hang_help.watch import Watch, watch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(SIZE, tmp_path_factory.mktemp("hang_help"), "scenarios_hang_help")


def lines(error: str) -> list[str]:
    """What an error says of the ranks, without how long they waited."""
    said = [line.strip() for line in error.splitlines() if line.startswith("  ")]
    return [re.sub(r"\d+(\.\d)? s\b", "# s", line) for line in said]


def assert_told(errors: list[str], kind: str, expected: list[str]) -> None:
    for error in errors:
        assert error.startswith(f"{kind}: "), error
        assert lines(error) == expected


def test_different_layers(world: World) -> None:
    before = "before it forward of 'first' (call 1)"
    inputs = "input (2, 6, 2) or (3, 6, 2)"
    expected = [
        f"rank 0: in forward of 'left' (call 2), 4 channels, input (1, 4, 2) float64; {before}",
        f"ranks 1-2: in forward of 'right' (call 2), 6 channels, {inputs} float64; {before}",
    ]
    assert_told(world["different_layers"], "DesyncError", expected)


def test_different_backward_passes(world: World) -> None:
    for error in world["different_backward_passes"]:
        small, large = lines(error)
        assert error.startswith("DesyncError: ")
        assert small.startswith("rank 0: in backward of 'small' (call 4), 4 channels")
        assert large.startswith("ranks 1-2: in backward of 'large' (call 5), 6 channels")
        assert "; before it forward of 'large' (call 5), forward of 'small' (call 4)" in small


def test_forward_against_backward(world: World) -> None:
    work = "4 channels, input (3, 4, 2) float64; before it forward of 'layer' (call 1)"
    expected = [
        f"rank 0: in backward of 'layer' (call 1), {work}",
        f"ranks 1-2: in forward of 'layer' (call 2), {work}",
    ]
    assert_told(world["forward_against_backward"], "DesyncError", expected)


def test_layers_of_so_many_channels_that_they_take_two_sums(world: World) -> None:
    for error in world["more_channels_than_a_frame_holds"]:
        assert error.startswith("DesyncError: ")
        for rank, (line, channels) in enumerate(zip(lines(error), (4, 1500, 2000), strict=True)):
            assert line.startswith(f"rank {rank}: in forward of a layer without a name (call 7)")
            assert f"{channels} channels" in line


def test_many_channels_equal_one_process(world: World) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3 * SIZE, 1500, generator=generator, dtype=torch.float64)
    shards = [shard.requires_grad_() for shard in x.split(3)]
    ys = normalize_shards(shards).ys
    gradients = torch.autograd.grad(torch.cat(ys).square().sum(), shards)
    for rank, got in enumerate(world["many_channels"]):
        torch.testing.assert_close(got, (ys[rank], gradients[rank]), rtol=1e-9, atol=1e-9)


def test_different_options_are_named(world: World) -> None:
    for error in world["different_options"]:
        assert error.startswith("DesyncError: ")
        others, second = lines(error)
        assert others.startswith("ranks 0, 2: in forward of 'layer'")
        assert "float64, eps=1e-05; before" in others
        assert second.startswith("rank 1: in forward of 'layer'")
        assert "float64, eps=0.001; before" in second


def test_sub_groups_name_ranks_of_the_world(world: World) -> None:
    outside, *members = world["in_a_sub_group"]
    assert outside is None
    expected = [
        f"rank {rank}: in forward of a layer without a name (call 1), {channels} channels,"
        f" input (3, {channels}, 2) float64"
        for rank, channels in ((1, 3), (2, 4))
    ]
    assert_told(members, "DesyncError", expected)


def test_a_rank_that_comes_too_late(world: World) -> None:
    """The others give up after their timeout; so does it, when it comes."""
    work = "4 channels, input (3, 4, 2) float64"
    backward = f"backward of 'bn' (call 1), {work}; before it forward of 'bn' (call 1)"
    away = f"rank 2: in no call for # s, the last was forward of 'bn' (call 1), {work}"
    late = f"rank 2: in {backward}"
    for rank, (error, afterwards) in enumerate(world["a_rank_that_comes_too_late"]):
        assert error.startswith("CommunicatorTimeoutError: a sum over the group failed (")
        assert "The group cannot be used any more." in error
        *others, last = lines(error)
        assert last == (late if rank == 2 else away)
        # The first to give up closes its connections, which the other may see before its own end.
        assert any(f"gave up after # s in {backward}" in line for line in others)
        assert afterwards.startswith(
            "CommunicatorTimeoutError: The group cannot be used any more. An earlier call failed: "
        )


def test_one_call_more_on_a_rank(world: World) -> None:
    """The others are in a barrier, where only their watch can tell of them."""
    work = "4 channels, input (3, 4, 2) float64"
    before = "before it forward of 'bn' (call 1)"
    expected = [
        f"rank 0: gave up after # s in forward of 'bn' (call 2), {work}; {before}",
        f"ranks 1-2: in no call for # s, the last was forward of 'bn' (call 1), {work}",
    ]
    error, *others = world["one_call_more_on_a_rank"]
    assert_told([error], "CommunicatorTimeoutError", expected)
    assert others == [None, None]


def test_what_a_device_reports_later(world: World) -> None:
    for error in world["what_a_device_reports_later"]:
        assert error.startswith("DesyncError: the ranks of a group were in different calls some")
        (line,) = lines(error)
        assert line.startswith("ranks 0-2: noticed it after forward of 'bn' (call ")


def run_world(
    scene: str, init: str, folder: Path, **environment: str
) -> tuple[list[int], list[str]]:
    """The exit status of each rank of hang_help_rank.py, and what it printed."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    shared = {**os.environ, **environment, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    logs = [folder / f"{rank}.log" for rank in range(SIZE)]
    ranks = []
    for rank, log in enumerate(logs):
        command = [sys.executable, "-W", "error", hang_help_rank.__file__, scene, init, str(rank)]
        with log.open("w") as output:
            own = {**shared, "RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=own, stdout=output, stderr=output))
    try:
        return [rank.wait(timeout=120) for rank in ranks], [log.read_text() for log in logs]
    finally:
        for rank in ranks:
            rank.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_rank_that_dies(tmp_path: Path) -> None:
    codes, said = run_world("killed", f"tcp://127.0.0.1:{free_port()}", tmp_path)
    assert codes == [0, 0, -9], said
    backward = (
        "backward of 'bn' (call 1), 4 channels, input (3, 4, 2) float64;"
        " before it forward of 'bn' (call 1)"
    )
    expected = [f"ranks 0-1: in {backward}", "rank 2: told nothing (ended, or cannot tell)"]
    assert_told(said[:2], "DesyncError", expected)


def test_a_run_without_errors_says_nothing(tmp_path: Path) -> None:
    port = str(free_port())
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(SIZE)}
    assert run_world("quiet", "env://", tmp_path, **place) == ([0] * SIZE, [""] * SIZE)


def test_ranks_that_are_threads() -> None:
    def call(rank: int, comm: Communicator) -> str:
        channels = 4 + rank
        layer = layer_of(channels, f"bn{rank}", process_group=comm)
        return error_of(lambda: layer(batch(channels)))

    for rank, error in enumerate(run_ranks(2, call)):
        expected = f"in forward of 'bn{rank}', {4 + rank} channels, input (3, {4 + rank}, 2)"
        assert_told([error], "DesyncError", [f"rank {rank}: {expected}"])


@pytest.mark.parametrize("timeout", [0.0, -1.0, 1e12, float("nan")])
def test_timeouts_that_no_backend_can_count(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout: got"):
        TorchGroup(None, 2, timeout=timeout)


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "syncnorm-watch"]


def test_the_watch_can_be_kept_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCNORM_WATCH", "0")
    watch(Gone(), Record())
    assert not watches()


def test_the_watch_ends_with_its_last_group_and_begins_again() -> None:
    """In a forked child too, which forgets what its parent watched over."""
    over_groups, group = Watch(), Gone()
    for _ in range(2):
        over_groups.add(group, Record())
        for thread in watches():
            thread.join(60)
        assert not watches()
        over_groups.forget()


class Gone:
    """Stands for a group that torch.distributed does not know any more."""
