"""On a device ranks that disagree are told by the status word: nothing waits for the device."""

from __future__ import annotations

import numpy as np
import pytest

from support.buffers import Buffer
from support.cases import simple_case
from support.driver import (
    WAIT_SECONDS,
    Rank,
    add_gradients,
    backward_call,
    forward_call,
    make_ranks,
)
from support.nccl_ranks import each, group
from syncnorm import Communicator

DESYNC = 5  # SYNCNORM_DESYNC
CASE = simple_case(batches=(3, 2))


def status_word() -> Buffer:
    return Buffer.of(np.zeros(1), "int32")


def on_all(ranks: list[Rank], comms: list[Communicator], call) -> None:
    def called(pair: tuple[Rank, Communicator]) -> None:
        call(*pair)
        pair[1].wait(timeout=WAIT_SECONDS)

    each(list(zip(ranks, comms, strict=True)), called)


@pytest.fixture(name="ranks")
def ranks_with_status_words() -> list[Rank]:
    ranks = make_ranks(CASE, device="cuda")
    for rank in ranks:
        rank.status = status_word()
    return ranks


def test_forward_of_different_calls(ranks):
    before = [{k: b.bits for k, b in rank.out.items()} for rank in ranks]
    for rank in ranks:
        rank.tag = 1 + rank.device[1]
    with group(2) as comms:
        on_all(ranks, comms, forward_call)
        for comm in comms:
            comm.poll()
    for rank, bits in zip(ranks, before, strict=True):
        assert rank.status.values.tolist() == [DESYNC]
        assert np.isnan(rank.out["y"].values).all()
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert rank.out[name].bits == bits[name], f"{name} was written"


def test_backward_of_different_calls(ranks):
    with group(2) as comms:
        on_all(ranks, comms, forward_call)
        for rank in ranks:
            assert rank.status.values.tolist() == [0]
            rank.tag = 1 + rank.device[1]
            add_gradients(CASE, rank)
        on_all(ranks, comms, lambda rank, comm: backward_call(CASE, rank, comm))
    for rank in ranks:
        assert rank.status.values.tolist() == [DESYNC]
        for name in ("dx", "dweight", "dbias"):
            assert np.isnan(rank.out[name].values).all()


def test_without_a_status_word_the_outputs_tell(ranks):
    for rank in ranks:
        rank.status, rank.tag = None, 1 + rank.device[1]
    with group(2) as comms:
        on_all(ranks, comms, forward_call)
    assert all(np.isnan(rank.out["y"].values).all() for rank in ranks)
