"""How the id of a new NCCL group gets to all ranks: through MPI, and through a store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import syncnorm
from syncnorm import _core
from syncnorm.comm import nccl_from_mpi, nccl_from_store, nccl_group

RANKS = 3
WAIT = 30.0


class Mpi:
    """One rank of a communicator like mpi4py's, over threads."""

    def __init__(self, rank: int, barrier: threading.Barrier, held: dict[int, Any]) -> None:
        self.rank, self.size = rank, barrier.parties
        self._barrier, self._held = barrier, held

    @classmethod
    def world(cls) -> list[Mpi]:
        barrier, held = threading.Barrier(RANKS), {}
        return [cls(rank, barrier, held) for rank in range(RANKS)]

    def bcast(self, obj: Any, root: int = 0) -> Any:
        self._held[self.rank] = obj
        self._barrier.wait(WAIT)
        received = self._held[root]
        self._barrier.wait(WAIT)
        return received


class Store:
    """A key-value store like torch.distributed's, for threads."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._changed = threading.Condition()

    def add(self, key: str, amount: int) -> int:
        with self._changed:
            self.values[key] = self.values.get(key, 0) + amount
            return self.values[key]

    def set(self, key: str, value: bytes) -> None:
        with self._changed:
            self.values[key] = value
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self.values, WAIT), f"{key} never came"
            return self.values[key]


Join = Callable[..., Any]


def through_mpi() -> list[Join]:
    def join_of(mpi: Mpi) -> Join:
        return lambda **options: nccl_from_mpi(mpi, 10 + mpi.rank, **options)

    return [join_of(mpi) for mpi in Mpi.world()]


def through_store() -> list[Join]:
    store = Store()

    def join_of(rank: int) -> Join:
        return lambda **options: nccl_from_store(store, rank, RANKS, 10 + rank, **options)

    return [join_of(rank) for rank in range(RANKS)]


@pytest.fixture(name="joins", params=[through_mpi, through_store])
def ways_of_the_ranks_to_join(request):
    return request.param()


def on_threads(calls: list[Join], **options: Any) -> list[Any]:
    """What each rank's call returned, or the error that it raised."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call, **options) for call in calls]
        return [future.exception() or future.result() for future in futures]


@pytest.fixture(name="made")
def creation_that_only_records(monkeypatch):
    """Ids are random, and a communicator is what its creation was given."""
    monkeypatch.setattr(_core, "nccl_unique_id", lambda: os.urandom(128))
    monkeypatch.setattr(_core, "nccl_communicator", lambda *given, **options: (given, options))


def test_every_rank_gets_the_id_of_rank_0(made, joins):
    results = on_threads(joins, init_timeout=7.0, sum_timeout=None)
    ids = {given[0] for given, _ in results}
    assert len(ids) == 1
    assert len(ids.pop()) == 128
    assert [given[1:] for given, _ in results] == [(r, RANKS, 10 + r) for r in range(RANKS)]
    assert all(options == {"init_timeout": 7.0, "sum_timeout": None} for _, options in results)


def test_the_next_group_gets_another_id(made, joins):
    ids = [{given[0] for given, _ in on_threads(joins)} for _ in range(3)]
    assert [len(of_group) for of_group in ids] == [1, 1, 1]
    assert len(set.union(*ids)) == 3


def test_groups_of_other_prefixes_do_not_meet(made):
    store = Store()
    ids = [
        nccl_from_store(store, 0, 1, 0, prefix=prefix)[0][0] for prefix in ("encoder", "decoder")
    ]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    "error", [syncnorm.UnsupportedError("NCCL was not found: é"), syncnorm.NcclError("socket: 2")]
)
def test_every_rank_gets_the_error_of_rank_0(monkeypatch, joins, error):
    def fail() -> bytes:
        raise error

    monkeypatch.setattr(_core, "nccl_unique_id", fail)
    first, *others = on_threads(joins)
    assert first is error
    for other in others:
        assert type(other) is type(error)
        assert str(other) == f"rank 0 could not create the NCCL id: {error}"


def no_device() -> bytes:
    raise syncnorm.CudaError("no device")


def test_after_an_error_the_ranks_can_meet_again(monkeypatch, made, joins):
    with monkeypatch.context() as patched:
        patched.setattr(_core, "nccl_unique_id", no_device)
        assert all(isinstance(result, syncnorm.CudaError) for result in on_threads(joins))
    assert len({given[0] for given, _ in on_threads(joins)}) == 1


@pytest.mark.parametrize(("present", "expected"), [(3, [0, 1, 2]), (0, [0])])
def test_a_group_of_all_devices(monkeypatch, present, expected):
    monkeypatch.setattr(_core, "capabilities", lambda: {"cuda_devices": present})
    monkeypatch.setattr(_core, "nccl_group", lambda devices, **options: (list(devices), options))
    assert nccl_group(max_ctas=2) == (expected, {"max_ctas": 2})
    assert nccl_group([5, 4]) == ([5, 4], {})
