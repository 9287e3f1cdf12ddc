"""Errors of ranks that disagree, or that wait in vain, report where every rank was."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import desync_rank
import pytest
import torch
from desync_rank import SIZE
from scenarios_desync import batch, layer_of
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from worlds import World

from support.scenarios import error_of
from syncnorm import Communicator, InvalidArgumentError, Options
from syncnorm.torch.desync import watchdog
from syncnorm.torch.desync.records import Record
from syncnorm.torch.groups.process_group import TorchGroup, record_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(SIZE, tmp_path_factory.mktemp("desync"), "scenarios_desync")


def lines(error: str) -> list[str]:
    """Return the lines of an error about the ranks, without their durations."""
    positions = [line.strip() for line in error.splitlines() if line.startswith("  ")]
    return [re.sub(r"\d+(\.\d)? s\b", "# s", line) for line in positions]


def assert_errors(errors: list[str], kind: str, expected: list[str]) -> None:
    for error in errors:
        assert error.startswith(f"{kind}: "), error
        assert lines(error) == expected


def test_no_watchdog_without_a_timeout(world: World) -> None:
    for threads, published in world["no_timeout"]:
        assert "syncnorm-watchdog" not in threads
        assert not published


def test_different_layers(world: World) -> None:
    before = "before it forward of 'first' (call 1)"
    inputs = "input (2, 6, 2) or (3, 6, 2)"
    expected = [
        f"rank 0: in forward of 'left' (call 2), 4 channels, input (1, 4, 2) float64; {before}",
        f"ranks 1-2: in forward of 'right' (call 2), 6 channels, {inputs} float64; {before}",
    ]
    assert_errors(world["different_layers"], "DesyncError", expected)


def test_different_backward_passes(world: World) -> None:
    for error in world["different_backward_passes"]:
        small, large = lines(error)
        assert error.startswith("DesyncError: ")
        assert small.startswith("rank 0: in backward of 'small' (call 4), 4 channels")
        assert large.startswith("ranks 1-2: in backward of 'large' (call 5), 6 channels")
        assert "; before it forward of 'large' (call 5), forward of 'small' (call 4)" in small


def test_layers_that_swap_places(world: World) -> None:
    """Names tell at once; without them the second layer does."""
    second = "layer 2 of those without a name"
    for named, unnamed in world["layers_that_swap_places"]:
        for (error, counted), layers, batches in (
            (named, ("'one' (", "'two' ("), [0, 0]),
            (unnamed, (f"{second} (", f"{second}, created before 1 of the earlier ones ("), [1, 0]),
        ):
            assert error.startswith("DesyncError: "), error
            assert [f"in forward of {layer}" in error for layer in layers] == [True, True], error
            assert counted == batches


def test_two_passes_of_one_layer(world: World) -> None:
    for error in world["two_passes_of_one_layer"]:
        assert error.startswith("DesyncError: ")
        one, two = (
            re.search(rf"{ranks}: in backward of 'bn' \(call (\d+)\)", error)
            for ranks in ("rank 0", "ranks 1-2")
        )
        assert one is not None, error
        assert two is not None, error
        assert int(two[1]) == int(one[1]) + 1


def test_lengths_that_are_alike_modulo_a_prime(world: World) -> None:
    """Otherwise gloo aborts a process that receives more than it expects."""
    for error in world["lengths_that_are_alike_modulo_a_prime"]:
        assert error.startswith("DesyncError: "), error


def test_forward_against_backward(world: World) -> None:
    work = "4 channels, input (3, 4, 2) float64; before it forward of 'layer' (call 1)"
    expected = [
        f"rank 0: in backward of 'layer' (call 1), {work}",
        f"ranks 1-2: in forward of 'layer' (call 2), {work}",
    ]
    assert_errors(world["forward_against_backward"], "DesyncError", expected)


def test_layers_of_so_many_channels_that_they_take_two_all_reduces(world: World) -> None:
    for error in world["more_channels_than_a_frame_holds"]:
        assert error.startswith("DesyncError: ")
        for rank, (line, channels) in enumerate(zip(lines(error), (4, 1500, 2000), strict=True)):
            start = rf"rank {rank}: in forward of layer \d+ of those without a name \(call \d+\)"
            assert re.match(start, line), line
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
        f"rank {rank}: in forward of layer 1 of those without a name (call 1),"
        f" {channels} channels, input (3, {channels}, 2) float64"
        for rank, channels in ((1, 3), (2, 4))
    ]
    assert_errors(members, "DesyncError", expected)


def test_a_rank_that_comes_too_late(world: World) -> None:
    """The others give up after their timeout; so does it, when it comes."""
    work = "4 channels, input (3, 4, 2) float64"
    backward = f"backward of 'bn' (call 1), {work}; before it forward of 'bn' (call 1)"
    away = f"rank 2: in no call for # s, the last was forward of 'bn' (call 1), {work}"
    late = f"rank 2: in {backward}"
    for rank, (error, afterwards) in enumerate(world["a_rank_that_comes_too_late"]):
        assert error.startswith("CommunicatorTimeoutError: an all-reduce of the group failed (")
        assert "The process group is unusable from now on." in error
        *others, last = lines(error)
        assert last == (late if rank == 2 else away)
        # The first to give up closes its connections, which the other may see before its own end.
        assert any(f"gave up after # s in {backward}" in line for line in others)
        lost = "The process group is unusable from now on. An earlier call failed: "
        assert afterwards.startswith(f"CommunicatorTimeoutError: {lost}")


def test_one_call_more_on_a_rank(world: World) -> None:
    """The others are in a barrier, where only their watchdog can publish their positions."""
    work = "4 channels, input (3, 4, 2) float64"
    before = "before it forward of 'bn' (call 1)"
    expected = [
        f"rank 0: gave up after # s in forward of 'bn' (call 2), {work}; {before}",
        f"ranks 1-2: in no call for # s, the last was forward of 'bn' (call 1), {work}",
    ]
    error, *others = world["one_call_more_on_a_rank"]
    assert_errors([error], "CommunicatorTimeoutError", expected)
    assert others == [None, None]


def test_what_a_device_reports_later(world: World) -> None:
    for error in world["what_a_device_reports_later"]:
        assert error.startswith("DesyncError: the ranks of a group were in different calls some")
        (line,) = lines(error)
        assert line.startswith("ranks 0-2: noticed it after forward of 'bn' (call ")


def run_world(
    scene: str, init: str, folder: Path, **environment: str
) -> tuple[list[int], list[str]]:
    """Return the exit status of each rank of desync_rank.py, and what it printed."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    shared = {**os.environ, **environment, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    logs = [folder / f"{rank}.log" for rank in range(SIZE)]
    ranks = []
    for rank, log in enumerate(logs):
        command = [sys.executable, "-W", "error", desync_rank.__file__, scene, init, str(rank)]
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
    init = f"tcp://127.0.0.1:{free_port()}"
    codes, printed = run_world("killed", init, tmp_path, SYNCNORM_WATCH="1")
    assert codes == [0, 0, -9], printed
    backward = (
        "backward of 'bn' (call 1), 4 channels, input (3, 4, 2) float64;"
        " before it forward of 'bn' (call 1)"
    )
    expected = [
        f"ranks 0-1: in {backward}",
        (
            "rank 2: published nothing (ended, in no call, or cannot reach the store;"
            " SYNCNORM_WATCH=1 tells which)"
        ),
    ]
    assert_errors(printed[:2], "RankLostError", expected)


def test_a_run_without_errors_prints_nothing(tmp_path: Path) -> None:
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
        assert_errors([error], "DesyncError", [f"rank {rank}: {expected}"])


@pytest.mark.parametrize("timeout", [0.0, -1.0, 1e12, float("nan")])
def test_timeouts_that_no_backend_can_count(timeout: float) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout: got"):
        TorchGroup(None, 2, timeout=timeout)


class FakeGroup:
    """A group that torch.distributed does not know: as if it had been destroyed."""


@pytest.fixture
def fresh_watchdog(monkeypatch: pytest.MonkeyPatch) -> Iterator[watchdog.Watchdog]:
    """The watchdog of the process in these tests; FakeGroup counts as alive."""
    fresh = watchdog.Watchdog()
    monkeypatch.setattr(watchdog, "_watchdog", fresh)
    monkeypatch.setattr(watchdog, "_is_alive", lambda _: True)
    yield fresh
    fresh.stop()


@pytest.mark.parametrize(("value", "starts"), [("1", True), ("0", False), (None, False)])
def test_the_environment_starts_the_watchdog(
    fresh_watchdog: watchdog.Watchdog,
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
    starts: bool,
) -> None:
    monkeypatch.delenv("SYNCNORM_WATCH", raising=False)
    if value is not None:
        monkeypatch.setenv("SYNCNORM_WATCH", value)
    group = FakeGroup()
    record_of(group)
    assert (fresh_watchdog._thread is not None) is starts


def test_a_timeout_starts_the_watchdog(
    fresh_watchdog: watchdog.Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SYNCNORM_WATCH", raising=False)
    group = FakeGroup()
    without, with_timeout = TorchGroup(group, 2), TorchGroup(group, 2, timeout=3.0)
    without.begin("forward", 1, Options(), torch.ones(2, 3))
    assert fresh_watchdog._thread is None
    with_timeout.begin("forward", 1, Options(), torch.ones(2, 3))
    assert fresh_watchdog._thread is not None
    assert with_timeout.record.patience == 1.5


def test_the_watchdog_ends_with_its_last_group_and_starts_again() -> None:
    ours, group = watchdog.Watchdog(), FakeGroup()
    for _ in range(2):
        ours.add(group, Record())
        for thread in threading.enumerate():
            if thread.name == "syncnorm-watchdog":
                thread.join(60)
                assert not thread.is_alive()
        assert ours._thread is None


def test_a_watchdog_that_was_reset_watches_nothing(fresh_watchdog: watchdog.Watchdog) -> None:
    """As in a forked child."""
    group = FakeGroup()
    fresh_watchdog.add(group, Record())
    fresh_watchdog.stop()
    fresh_watchdog.add(group, Record())
    assert fresh_watchdog._thread is None or not fresh_watchdog._thread.is_alive()
    fresh_watchdog.reset()
    assert not fresh_watchdog._watched
    fresh_watchdog.add(group, Record())
    assert fresh_watchdog._thread is not None
    assert fresh_watchdog._thread.is_alive()
