"""syncnorm.numpy against the reference, for any shape, layout, option and division of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from outcomes import Outcome
from problems import Problem, problems

from support.adapter_driver import FORWARD, UPDATED
from support.compare import check_frozen, check_training
from support.driver import on_threads
from support.numpy_arrays import dtype_of
from syncnorm import Communicator
from syncnorm import numpy as bn

DATA = ("x", "dy", "residual", "mask")


def arrays_of(problem: Problem, rank: int) -> dict[str, Any]:
    """The arguments of a rank that are arrays, by name."""
    arrays = {name: problem.data(rank, name) for name in DATA}
    made = {name: array for name, array in arrays.items() if array is not None}
    for name in ("x", "dy", "residual"):
        if name in made:
            made[name] = made[name].view(dtype_of(problem.case.dtype))
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (vector := problem.vector(name)) is not None:
            made[name] = vector[0].view(dtype_of(vector[1]))
    if problem.case.batches is not None:
        made["num_batches_tracked"] = np.array(problem.case.batches)
    return made


def run_rank(
    problem: Problem, rank: int, comm: Communicator | None, *, training: bool = True
) -> Outcome:
    arrays = arrays_of(problem, rank)
    inputs = [name for name in arrays if name not in UPDATED]
    before = {name: arrays[name].tobytes() for name in inputs}
    given = {name: arrays[name] for name in FORWARD if name in arrays}
    y, saved = bn.forward(
        arrays["x"], comm=comm, training=training, **given, **problem.case.options
    )
    gradients = bn.backward(arrays["dy"], saved)
    outcome = Outcome()
    results = {"y": y, "dx": gradients.dx, "dresidual": gradients.dresidual}
    results |= {"dweight": gradients.dweight, "dbias": gradients.dbias}
    results |= {"saved": saved.statistics, **{n: arrays[n] for n in UPDATED if n in arrays}}
    for name, value in results.items():
        if value is not None:
            outcome.keep(name, np.atleast_1d(np.ascontiguousarray(value)), value.dtype.name)
    assert y.shape == arrays["x"].shape == gradients.dx.shape
    assert {name: arrays[name].tobytes() for name in inputs} == before, "an input was written"
    return outcome


@given(problem=problems())
def test_training(problem: Problem) -> None:
    ranks: list[Any] = [None] * len(problem.case.shards)

    def work(rank: int, comm: Communicator) -> None:
        ranks[rank] = run_rank(problem, rank, comm)

    on_threads(work, len(ranks))
    check_training(problem.case, ranks)


@given(problem=problems(ranks=1).filter(lambda p: p.case.running_mean is not None))
def test_evaluation(problem: Problem) -> None:
    check_frozen(problem.case, [run_rank(problem, 0, None, training=False)])
