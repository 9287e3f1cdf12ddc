"""A rank that dies, freezes, is interrupted or forks: every rank raises soon, and says the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lost_rank
import pytest
import torch
import torch.distributed as dist
from lost_rank import PATIENCE, wait_for
from worlds import World, _server

from syncnorm.torch.desync import store as store_module
from syncnorm.torch.desync.errors import exchange
from syncnorm.torch.desync.records import FAILED, Position

SILENT = "published nothing (ended, in no call, or cannot reach the store; SYNCNORM_WATCH=1 tells"
CALL = "4 channels, input (3, 4, 2) float64; before it forward of 'bn' (call 1)"


def _run(scene: Callable[..., Any], folder: Path, rank: int, args: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.save(scene(folder, rank, *args), folder / f"rank{rank}.pt")


def results_of(scene: Callable[..., Any], folder: Path, size: int, *args: Any) -> list[Any]:
    """Return what each rank of the scene returned; None for ranks that died."""
    ranks = [
        _server.Process(target=_run, args=(scene, folder, rank, (size, *args)))
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 2 * PATIENCE
    for rank in ranks:
        rank.join(max(0.0, deadline - time.monotonic()))
    for rank in ranks:
        rank.kill()
        rank.join()
    paths = [folder / f"rank{rank}.pt" for rank in range(size)]
    return [torch.load(path) if path.exists() else None for path in paths]


def lines(error: str) -> list[str]:
    return [line.strip() for line in error.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_killed_rank(tmp_path: Path, phase: str) -> None:
    """One of the others does not receive from it, and one is elsewhere."""
    *others, dead = results_of(lost_rank.killed, tmp_path, 4, phase)
    assert dead is None
    call = f"{phase} of 'bn' (call {2 if phase == 'forward' else 1}), {CALL}"
    for error, again in others:
        assert error.startswith("RankLostError: an all-reduce of the group failed ("), error
        assert f"  ranks 0-2: in {call}\n  rank 3: {SILENT}" in error, error
        lost = "The process group is unusable from now on. An earlier call failed: "
        assert again.startswith(f"RankLostError: {lost}")


def test_ctrl_c(tmp_path: Path) -> None:
    (first, again), *others = results_of(lost_rank.interrupted, tmp_path, 3)
    assert first == "KeyboardInterrupt: "
    assert again.startswith("InternalError: ")
    assert "KeyboardInterrupt interrupted an all-reduce" in again
    for error, later in others:
        assert error.startswith("RankLostError: ")
        assert f"rank 0: was interrupted in forward of 'bn' (call 2), {CALL}" in lines(error)
        assert later.startswith("RankLostError: ")


def test_a_frozen_host_of_the_store(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "error", lost_rank.__file__, str(tmp_path)]
    host, other = [
        subprocess.Popen(
            [*command, str(rank), str(port)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        wait_for(tmp_path, ["stopped"])
        # Its exit must not wait for the store either.
        printed, _ = other.communicate(timeout=PATIENCE)
    finally:
        for rank in (host, other):
            rank.kill()
            rank.communicate()
    assert other.returncode == 0, printed
    error, _, again = printed.partition("\nCommunicatorTimeoutError: ")
    assert error.startswith("CommunicatorTimeoutError: an all-reduce of the group failed (")
    assert "Timed out waiting 3000ms" in error
    assert f"  rank 0: {SILENT}" in error
    assert "  rank 1: gave up after " in error
    assert "  (the store of the group could not be reached: it does not answer)" in error
    assert again.startswith("The process group is unusable from now on. An earlier call failed: ")


class StoreGroup:
    """Rank 0 of a group of three with this store."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 3

    def get_group_store(self) -> Any:
        return self._store


POSITION = Position(7, FAILED, since=100.0, published=103.0, calls=())
GARBAGE = [
    "",
    "\xff\xfe",
    "null",
    "7",
    "[]",
    "[" * 30_000,
    '[7, "failed", 100.0, 103.0]',
    '[7, "failed", 100.0, 103.0, [], "newer"]',
    '[7, "elsewhere", 100.0, 103.0, []]',
    '[7, ["failed"], 100.0, 103.0, []]',
    '["7", "failed", 100.0, 103.0, []]',
    '[7, "failed", NaN, 103.0, []]',
    '[7, "failed", 1e999, 103.0, []]',
    f'[7, "failed", {"9" * 400}, 103.0, []]',
    '[7, "failed", 100.0, 103.0, [["bn"]]]',
    '[7, "failed", 100.0, 103.0, [["bn", "forward", 3, 5, "float32", {}]]]',
    '[7, "failed", 100.0, 103.0, [["bn", "forward", 3, [2], "float32", {}]]]',
    '[7, "failed", 100.0, 103.0, [["bn", "forward", 3, [2, "4"], "float32", {}]]]',
    '[7, "failed", 100.0, 103.0, [["bn", "forward", 3, [2, 4], "float32", []]]]',
    '[7, "failed", 100.0, 103.0, [["bn", "forward", 3, [2, 4], "float32", {"eps": [1]}]]]',
    '[7, "failed", 100.0, 103.0, [[{}, "forward", 3, [2, 4], "float32", {}]]]',
    '{"sum": 7, "state": "failed", "since": 100.0, "published": 103.0, "calls": []}',
]


@pytest.mark.parametrize("text", [*GARBAGE, f'[7, "failed", 100.0, 103.0, []{" " * 70_000}]'])
def test_garbage_in_the_store(text: str) -> None:
    store = dist.HashStore()
    store.set("syncnorm/where/1", text)
    store.set("syncnorm/where/2", POSITION.to_json())
    store.set("syncnorm/where/7/read by 2", text)
    found, problem = exchange(StoreGroup(store), POSITION, timeout=0.1)
    assert (found, problem) == ({0: POSITION, 2: POSITION}, "")


class BlockedStore:
    """A store whose host is frozen until `thawed` is set."""

    def __init__(self) -> None:
        self.thawed = threading.Event()

    def set(self, _key: str, _value: str) -> None:
        self.thawed.wait(PATIENCE)

    def check(self, _keys: list[str]) -> bool:
        return False


@pytest.fixture
def blocked_store() -> Iterator[BlockedStore]:
    store = BlockedStore()
    yield store
    store.thawed.set()
    thread = store_module._Blocked.thread
    assert thread is not None
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_store_that_does_not_answer_blocks_one_thread(blocked_store: BlockedStore) -> None:
    found, problem = exchange(StoreGroup(blocked_store), POSITION, timeout=0.1)
    assert (found, problem) == ({0: POSITION}, "it does not answer")
    threads = threading.active_count()
    for _ in range(3):
        assert exchange(StoreGroup(blocked_store), POSITION)[1] == "it does not answer"
    assert threading.active_count() == threads


def test_a_forked_child(worlds: Callable[[str, int], World]) -> None:
    for used, unused, evaluated, new, later in worlds("scenarios_fork", 2)["forked"]:
        start = "UnsupportedError: process_group: got a group of the parent in a forked child"
        assert all(error.startswith(start) for error in (used, unused, new))
        assert evaluated == "no error"
        assert later == "no error"


def test_a_loader_that_forks(worlds: Callable[[str, int], World]) -> None:
    for batches in worlds("scenarios_fork", 2)["loader"]:
        assert batches == [[2, 4], [2, 4]]
