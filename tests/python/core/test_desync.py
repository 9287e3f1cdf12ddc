"""Ranks in different calls: an error at once, nothing written, the status word set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import syncnorm
from support import driver
from support.buffers import Buffer
from support.cases import Case, simple_case
from support.driver import Rank, assert_same_bits, make_ranks, on_threads, run_phases
from syncnorm import _core

DESYNC = 5  # SYNCNORM_DESYNC

MUST_AGREE = {
    "eps": {"eps": 1e-3},
    "weighting": {"weighting": "equal"},
    "eps_mode": {"eps_mode": "max"},
    "grad_reduction": {"grad_reduction": "sum"},
    "activation": {"activation": "relu"},
    "in_place": {"in_place": True},
}
MAY_DIFFER = {"momentum": {"momentum": 0.5}, "variance_factor": {"variance_factor": "biased"}}


def two_ranks(case: Case | None = None, other: dict | None = None, tags=(0, 0)) -> list[Rank]:
    """Rank 1 gets the options `other` instead of the case's; both have a status word."""
    case = case or simple_case(batches=(3, 2))
    ranks = make_ranks(case)
    ranks[1].options = _core.Options(**case.options | (other or {}))
    for rank, tag in zip(ranks, tags, strict=True):
        rank.tag = tag
        rank.status = Buffer.of(np.zeros(1), "int32")
    return ranks


def snapshot(rank: Rank) -> dict[str, bytes]:
    return {name: buffer.bits for name, buffer in rank.out.items()}


def assert_refused(rank: Rank, call: Callable[[], None]) -> None:
    before = snapshot(rank)
    with pytest.raises(syncnorm.DesyncError) as caught:
        call()
    assert str(caught.value)
    assert snapshot(rank) == before, "an output was written"
    assert rank.status.values.tolist() == [DESYNC]


def share_moments(ranks: list[Rank]) -> None:
    for rank in ranks:
        driver.moments(rank)
    driver.sum_over_ranks(ranks, "wire", "total")


@pytest.mark.parametrize("other", MUST_AGREE.values(), ids=MUST_AGREE.keys())
def test_normalize_refuses_other_options(other: dict) -> None:
    ranks = two_ranks(other=other)
    share_moments(ranks)
    for rank in ranks:
        assert_refused(rank, lambda rank=rank: driver.normalize(rank))


def test_normalize_refuses_another_negative_slope() -> None:
    case = simple_case(batches=(3, 2), activation="leaky_relu")
    ranks = two_ranks(case, {"negative_slope": 0.2})
    share_moments(ranks)
    assert_refused(ranks[0], lambda: driver.normalize(ranks[0]))


def test_normalize_refuses_other_tags() -> None:
    ranks = two_ranks(tags=(1, 2))
    share_moments(ranks)
    for rank in ranks:
        assert_refused(rank, lambda rank=rank: driver.normalize(rank))


@pytest.mark.parametrize("other", MAY_DIFFER.values(), ids=MAY_DIFFER.keys())
def test_what_may_differ(other: dict) -> None:
    ranks = two_ranks(other=other)
    driver.forward_phases(ranks)
    assert [rank.status.values.tolist() for rank in ranks] == [[0], [0]]


def test_dtype_layout_and_residual_may_differ() -> None:
    cases = [
        simple_case("float32", (3,), layout="first"),
        simple_case("bfloat16", (2,), layout="last", residual=True),
    ]
    ranks = [make_ranks(case)[0] for case in cases]
    for rank in ranks:
        rank.size = 2
    driver.forward_phases(ranks)
    assert ranks[0].out["saved"].values[2:7].tolist() == ranks[1].out["saved"].values[2:7].tolist()


def test_center_refuses() -> None:
    ranks = two_ranks(simple_case(batches=(3, 2), centering="on"), tags=(1, 2))
    share_moments(ranks)
    for rank in ranks:
        rank.new("center_wire", (rank.sizes.center_wire,), "float64")
        wires = [rank.array(n) for n in ("wire", "total", "local_var", "center_wire")]
        call = lambda r=rank, w=wires: r.call(_core.center, r.array("x"), 2, *w)  # noqa: E731
        assert_refused(rank, call)


def test_normalize_refuses_center_wires_of_other_calls() -> None:
    """The forward wires agree, the center wires do not."""
    ranks = two_ranks(simple_case(batches=(3, 2), centering="on"))
    share_moments(ranks)
    for rank in ranks:
        driver.center(rank)
    driver.sum_over_ranks(ranks, "center_wire", "center_total")
    for rank in ranks:
        rank.out["center_total"].storage[1] += 1
        assert_refused(rank, lambda rank=rank: driver.normalize(rank))


def test_update_running_refuses() -> None:
    ranks = two_ranks(tags=(1, 2))
    share_moments(ranks)
    rank = ranks[0]
    names = ("wire", "total", "running_mean", "running_var")
    arrays = [rank.array(name) for name in names]
    counter = rank.arrays("num_batches_tracked")

    def call() -> None:
        rank.call(_core.update_running, rank.array("x"), 2, *arrays, **counter)

    assert_refused(rank, call)


def test_grad_input_refuses() -> None:
    case = simple_case(batches=(3, 2))
    ranks = two_ranks(case)
    driver.forward_phases(ranks)
    for rank, tag in zip(ranks, (1, 2), strict=True):
        rank.tag = tag
        driver.add_gradients(case, rank)
        driver.grad_moments(case, rank)
    driver.sum_over_ranks(ranks, "grad_wire", "grad_total")
    for rank in ranks:
        assert_refused(rank, lambda rank=rank: driver.grad_input(case, rank))


@pytest.mark.parametrize("total", [np.zeros_like, lambda wire: 2 * (wire + 1)])
def test_a_total_that_is_no_sum_is_noticed(total: Callable) -> None:
    """As of a callback that does not write its result."""
    ranks = two_ranks()
    share_moments(ranks)
    ranks[0].out["total"].storage[:] = total(ranks[0].out["wire"].values)
    assert_refused(ranks[0], lambda: driver.normalize(ranks[0]))


def test_agreement_of_the_others_is_not_enough() -> None:
    """The total is that of two ranks in one call, and this rank is in another one."""
    ranks = two_ranks(tags=(1, 2))
    share_moments(ranks)
    ranks[0].out["total"].storage[:] = 2 * ranks[1].out["wire"].values
    assert_refused(ranks[0], lambda: driver.normalize(ranks[0]))


@pytest.mark.parametrize("tag", [0, 3 << 32, 7])
def test_backward_belongs_to_its_forward(tag: int) -> None:
    """Backward passes of different forward passes of one layer disagree, whoever sums the wires."""
    case = simple_case(batches=(3, 2))
    ranks = two_ranks(case, tags=(tag, tag))
    driver.forward_phases(ranks)
    for rank in ranks:
        driver.add_gradients(case, rank)
    ranks[1].out["saved"].storage[1] += 1
    for rank in ranks:
        driver.grad_moments(case, rank)
    driver.sum_over_ranks(ranks, "grad_wire", "grad_total")
    for rank in ranks:
        assert_refused(rank, lambda rank=rank: driver.grad_input(case, rank))


def test_wrong_group_size_is_noticed() -> None:
    ranks = two_ranks()
    share_moments(ranks)
    ranks[0].size = 3
    assert_refused(ranks[0], lambda: driver.normalize(ranks[0]))


def outcomes(ranks: list[Rank], works: list[Callable]) -> list[BaseException | None]:
    """What each rank's thread raised."""
    caught: list[BaseException | None] = [None] * len(ranks)

    def work(index: int, comm: _core.Communicator) -> None:
        try:
            works[index](ranks[index], comm)
        except syncnorm.Error as error:
            caught[index] = error

    on_threads(work, len(ranks))
    return caught


@pytest.mark.parametrize("other", MUST_AGREE.values(), ids=MUST_AGREE.keys())
def test_one_call_refuses_other_options(other: dict) -> None:
    ranks = two_ranks(other=other)
    before = [snapshot(rank) for rank in ranks]
    caught = outcomes(ranks, [driver.forward_call] * 2)
    assert [type(error) for error in caught] == [syncnorm.DesyncError] * 2
    assert [snapshot(rank) for rank in ranks] == before
    assert [rank.status.values.tolist() for rank in ranks] == [[DESYNC]] * 2


def test_one_call_refuses_other_tags() -> None:
    ranks = two_ranks(tags=(7, 8))
    caught = outcomes(ranks, [driver.forward_call] * 2)
    assert [type(error) for error in caught] == [syncnorm.DesyncError] * 2


def test_one_call_refuses_another_number_of_channels() -> None:
    """Wires of different length: the thread communicator sees it before it adds."""
    ranks = [make_ranks(simple_case(channels=c, batches=(2,)))[0] for c in (5, 6)]
    before = [snapshot(rank) for rank in ranks]
    caught = outcomes(ranks, [driver.forward_call] * 2)
    assert all(isinstance(error, syncnorm.DesyncError) for error in caught), caught
    assert [snapshot(rank) for rank in ranks] == before


def test_forward_meets_backward() -> None:
    case = simple_case(batches=(3, 2))
    ranks = run_phases(case)
    for rank in ranks:
        driver.add_gradients(case, rank)
    works = [driver.forward_call, lambda rank, comm: driver.backward_call(case, rank, comm)]
    caught = outcomes(ranks, works)
    assert all(isinstance(error, syncnorm.DesyncError) for error in caught), caught


def test_backward_of_another_layer() -> None:
    """Same lengths, different call: told apart by the hash."""
    case = simple_case(batches=(3, 2))
    ranks = run_phases(case)
    for rank, tag in zip(ranks, (1, 2), strict=True):
        rank.tag = tag
        rank.status = Buffer.of(np.zeros(1), "int32")
        driver.add_gradients(case, rank)
    before = [snapshot(rank) for rank in ranks]
    work = lambda rank, comm: driver.backward_call(case, rank, comm)  # noqa: E731
    caught = outcomes(ranks, [work, work])
    assert [type(error) for error in caught] == [syncnorm.DesyncError] * 2
    assert [snapshot(rank) for rank in ranks] == before


def test_calls_of_ranks_with_the_same_count_agree() -> None:
    """Many calls in a row on one communicator: the counter goes along on every rank."""
    case = simple_case(batches=(3, 2))
    expected = run_phases(dataclasses.replace(case))
    ranks = make_ranks(case)

    def work(index: int, comm: _core.Communicator) -> None:
        rank = ranks[index]
        fresh = {name: rank.out[name].bits for name in ("running_mean", "running_var")}
        for _ in range(20):
            for name, bits in fresh.items():
                rank.out[name].bytes[:] = np.frombuffer(bits, np.uint8)
            driver.forward_call(rank, comm)

    on_threads(work, 2)
    assert_same_bits(ranks, expected, ["y", "saved", "running_mean", "running_var"])
