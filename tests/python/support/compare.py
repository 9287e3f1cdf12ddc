"""The results of a run against the reference, within the bounds of support.tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reference import backward, forward, infer, infer_backward, update_running
from support.buffers import Buffer
from support.cases import Case, flat
from support.driver import GRADIENTS, Rank
from support.dtypes import LARGEST, UNIT
from support.tolerance import K, backward_bounds, forward_bounds, running_bounds


class Report:
    """Collects the worst error of each result as a fraction of its bound."""

    def __init__(self) -> None:
        self.worst: dict[str, float] = {}
        self.wrong: list[str] = []

    def add(
        self,
        name: str,
        actual: np.ndarray,
        expected: np.ndarray,
        bound: np.ndarray,
        dtype: str = "float64",
    ) -> None:
        # What the dtype cannot hold is written as infinity.
        beyond = np.isinf(actual) & (np.abs(expected) + bound >= LARGEST[dtype])
        actual = np.where(beyond & (np.sign(actual) == np.sign(expected)), expected, actual)
        error = np.abs(actual - expected)
        ok = (error <= bound) | (np.isnan(actual) & np.isnan(expected))
        if actual.size == 0:
            return
        fraction = float(np.max(np.where(bound > 0, error / np.where(bound > 0, bound, 1), ~ok)))
        key = name.split(" of ", maxsplit=1)[0]
        self.worst[key] = max(self.worst.get(key, 0.0), fraction)
        if not ok.all():
            at = np.unravel_index(int(np.argmin(ok)), ok.shape)
            self.wrong.append(
                f"{name}{list(map(int, at))}: {(~ok).sum()} of {ok.size} values wrong, first "
                f"{float(actual[at])!r}, expected {float(expected[at])!r} "
                f"+- {float(np.broadcast_to(bound, ok.shape)[at]):.3g}"
            )

    def add_output(
        self, rank: Rank, d: int, name: str, expected: np.ndarray, bound: np.ndarray
    ) -> None:
        buffer = rank.out[name]
        self.add(f"{name} of rank {d}", value_of(buffer), expected, bound, buffer.dtype)

    def finish(self) -> dict[str, float]:
        assert not self.wrong, "\n".join(self.wrong)
        return self.worst


def value_of(buffer: Buffer) -> np.ndarray:
    """In the reference's precision; data as (N, C, S)."""
    values = buffer.values
    return (flat(values) if values.ndim > 1 else values).astype(np.longdouble)


def saved_parts(case: Case, rank: Rank) -> dict[str, np.ndarray]:
    saved = value_of(rank.out["saved"])
    mean, invstd, gate = saved[2:].reshape(3, case.channels)
    return {"factor": saved[:1], "mean": mean, "invstd": invstd, "gate": gate, "hash": saved[1:2]}


def vector_values(case: Case, name: str) -> np.ndarray | None:
    vector = getattr(case, name)
    return None if vector is None else vector.values


def check_training(case: Case, ranks: Sequence[Rank]) -> dict[str, float]:
    weight, bias = vector_values(case, "weight"), vector_values(case, "bias")
    shards = case.reference_shards
    result = forward(case.policy, shards, weight, bias)
    gradients = backward(case.policy, result, shards, case.gradients, weight)
    bounds = forward_bounds(case, result, given_statistics=sum(result.counts) == 0)
    errors = backward_bounds(case, result, bounds, gradients)
    report = Report()
    for d, rank in enumerate(ranks):
        report.add_output(rank, d, "y", result.y[d], bounds.y[d])
        add_saved(report, case, rank, d, result, bounds)
        add_running(report, case, rank, d, result, bounds)
        for name in GRADIENTS:
            if name in rank.out:
                expected = getattr(gradients, name)[d]
                report.add_output(rank, d, name, expected, errors[name][d])
    check_agreement(case, ranks)
    return report.finish()


def add_saved(report: Report, case: Case, rank: Rank, d: int, result, bounds) -> None:
    if "saved" not in rank.out:  # of a layer that does not show it
        return
    saved = saved_parts(case, rank)
    factor = np.array([result.coefficients[d]])
    report.add(f"saved factor of {d}", saved["factor"], factor, 4 * UNIT["float64"] * factor)
    report.add(f"saved mean of {d}", saved["mean"], result.mean, bounds.mean)
    report.add(f"saved invstd of {d}", saved["invstd"], result.invstd, bounds.invstd)
    # Within its error of eps the variance may have been clamped or not.
    doubt = np.abs(result.var - case.policy.eps) <= bounds.var
    report.add(f"saved gate of {d}", saved["gate"], result.gate, 1.0 * doubt)
    (h,) = saved["hash"]
    assert h == int(h)
    assert 1 <= h <= 65535


def add_running(report: Report, case: Case, rank: Rank, d: int, result, bounds) -> None:
    if case.running_mean is None:
        return
    old = (case.running_mean.values, case.running_var.values)
    *new, batches = update_running(case.policy, result, d, *old, case.batches or 0)
    if case.batches is not None:
        assert rank.out["num_batches_tracked"].values.tolist() == [batches]
    if sum(result.counts) == 0:
        errors = (np.zeros(case.channels), np.zeros(case.channels))
    else:
        step = case.policy.momentum if case.policy.momentum is not None else 1 / batches
        errors = running_bounds(case, result, bounds, d, new, step)
    for name, expected, error in zip(("running_mean", "running_var"), new, errors, strict=True):
        report.add_output(rank, d, name, expected, error)


def check_agreement(case: Case, ranks: Sequence[Rank]) -> None:
    """What describes the group is the same on every rank, to the bit."""
    same = ["num_batches_tracked", "running_mean"]
    if case.policy.variance_factor in ("unbiased", "biased"):
        same.append("running_var")
    if case.policy.grad_reduction != "local":
        same += ["dweight", "dbias"]
    for rank in ranks[1:]:
        for name in same:
            if name in rank.out:
                assert rank.out[name].bits == ranks[0].out[name].bits, f"{name} differs over ranks"
        if "saved" in rank.out:
            ours, theirs = rank.out["saved"].values[2:], ranks[0].out["saved"].values[2:]
            assert ours.tobytes() == theirs.tobytes(), "mean, invstd or gate differ over ranks"


def check_frozen(case: Case, ranks: Sequence[Rank]) -> dict[str, float]:
    weight, bias = vector_values(case, "weight"), vector_values(case, "bias")
    statistics = (case.running_mean.values, case.running_var.values)
    report = Report()
    for d, (rank, shard) in enumerate(zip(ranks, case.reference_shards, strict=True)):
        alone = one_shard(case, d)
        result = infer(case.policy, shard, *statistics, weight, bias)
        gradients = infer_backward(case.policy, result, case.gradients[d], weight)
        bounds = forward_bounds(alone, result, given_statistics=True)
        errors = backward_bounds(alone, result, bounds, gradients, frozen=True)
        report.add_output(rank, d, "y", result.y[0], bounds.y[0])
        if "saved" in rank.out:
            saved = saved_parts(case, rank)
            report.add(f"saved mean of {d}", saved["mean"], result.mean, np.zeros(case.channels))
            limit = K * UNIT[case.arithmetic] * result.invstd
            report.add(f"saved invstd of {d}", saved["invstd"], result.invstd, limit)
        for name in GRADIENTS:
            if name in rank.out:
                expected = getattr(gradients, name)[0]
                report.add_output(rank, d, name, expected, errors[name][0])
    return report.finish()


def one_shard(case: Case, index: int) -> Case:
    fields = {name: getattr(case, name) for name in Case.__dataclass_fields__}
    return Case(**fields | {"shards": [case.shards[index]]})
