"""syncnorm.torch against the reference, for any shape, layout, option and division of the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import given
from outcomes import Outcome
from problems import Problem, problems
from torch import Tensor

from support.compare import check_frozen, check_training
from support.driver import on_threads
from support.dtypes import STORAGE
from syncnorm import Communicator
from syncnorm.torch import sync_batch_norm, sync_batch_norm_shards


def tensor_of(array: np.ndarray, dtype: str) -> Tensor:
    """A tensor over an array of the dtype's storage type, with its strides."""
    tensor = torch.from_numpy(array.view(np.int16) if dtype == "bfloat16" else array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def storage_of(tensor: Tensor | None) -> np.ndarray | None:
    if tensor is None:
        return None
    tensor = tensor.detach().contiguous()
    values = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    return values.numpy().view(STORAGE[dtype_name(tensor)])


def dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class Inputs:
    """The tensors of a rank. In place, x is a copy of a leaf, since autograd keeps leaves."""

    def __init__(self, problem: Problem, rank: int) -> None:
        self.problem, self.rank, self.options = problem, rank, dict(problem.case.options)
        self.x, self.dy, self.residual = (self.data(name) for name in ("x", "dy", "residual"))
        mask = problem.data(rank, "mask")
        self.mask = None if mask is None else tensor_of(mask, "uint8")
        self.leaves = [t.requires_grad_() for t in (self.x, self.residual) if t is not None]

    def data(self, name: str) -> Tensor | None:
        array = self.problem.data(self.rank, name)
        return None if array is None else tensor_of(array, self.problem.case.dtype)

    def normalized(self) -> Tensor:
        """What is to be normalized."""
        return self.x.clone() if self.problem.case.policy.in_place else self.x

    def keep(self, outcome: Outcome, y: Tensor) -> None:
        results = {"y": y, "dx": self.x.grad}
        if self.residual is not None:
            results["dresidual"] = self.residual.grad
        keep(outcome, results)


def keep(outcome: Outcome, results: dict[str, Tensor | None]) -> None:
    for name, tensor in results.items():
        if tensor is not None:
            storage = np.atleast_1d(storage_of(tensor))
            outcome.keep(name, storage, dtype_name(tensor))


def vectors_of(problem: Problem) -> dict[str, Tensor | None]:
    """Parameters, which are leaves, and running statistics."""
    vectors: dict[str, Tensor | None] = {}
    for name in ("weight", "bias", "running_mean", "running_var"):
        vector = problem.vector(name)
        vectors[name] = None if vector is None else tensor_of(*vector)
    for name in ("weight", "bias"):
        if vectors[name] is not None:
            vectors[name].requires_grad_()
    counter = problem.case.batches
    vectors["num_batches_tracked"] = None if counter is None else torch.tensor(counter)
    return vectors


def keep_vectors(outcome: Outcome, vectors: dict[str, Tensor | None]) -> None:
    running = ("running_mean", "running_var", "num_batches_tracked")
    keep(outcome, {name: vectors[name] for name in running})
    gradients = {f"d{n}": vectors[n].grad for n in ("weight", "bias") if vectors[n] is not None}
    keep(outcome, gradients)


def run_rank(
    problem: Problem, rank: int, comm: Communicator | None, *, training: bool = True
) -> Outcome:
    inputs, vectors, outcome = Inputs(problem, rank), vectors_of(problem), Outcome()
    y = sync_batch_norm(
        inputs.normalized(),
        **vectors,
        training=training,
        residual=inputs.residual,
        mask=inputs.mask if training else None,
        process_group=comm,
        **inputs.options,
    )
    assert y.shape == inputs.x.shape
    y.backward(inputs.dy)
    inputs.keep(outcome, y)
    keep_vectors(outcome, vectors)
    return outcome


@given(problem=problems(negative=False))
def test_training(problem: Problem) -> None:
    ranks: list[Any] = [None] * len(problem.case.shards)

    def work(rank: int, comm: Communicator) -> None:
        ranks[rank] = run_rank(problem, rank, comm)

    on_threads(work, len(ranks))
    check_training(problem.case, ranks)


@given(problem=problems(negative=False, ranks=1).filter(lambda p: p.case.running_mean is not None))
def test_evaluation(problem: Problem) -> None:
    check_frozen(problem.case, [run_rank(problem, 0, None, training=False)])


def with_one_set_of_vectors(problem: Problem) -> Problem:
    """Options with which parameters and running statistics are the same for all shards."""
    options = {"variance_factor": "unbiased", "grad_reduction": "sum"}
    if len(problem.case.shards) > 1:  # torch refuses views among several tensors in place
        options["in_place"] = False
    case = replace(problem.case, given=problem.case.given | options)
    return replace(problem, case=case)


@given(problem=problems(negative=False).map(with_one_set_of_vectors))
def test_shards_of_one_process(problem: Problem) -> None:
    """Each shard counts as a rank."""
    shards = [Inputs(problem, rank) for rank in range(len(problem.case.shards))]
    vectors, outcomes = vectors_of(problem), [Outcome() for _ in shards]
    ys = sync_batch_norm_shards(
        [shard.normalized() for shard in shards],
        **vectors,
        residuals=[shard.residual for shard in shards],
        masks=[shard.mask for shard in shards],
        **shards[0].options,
    )
    torch.autograd.backward(ys, [shard.dy for shard in shards])
    for shard, outcome, y in zip(shards, outcomes, ys, strict=True):
        shard.keep(outcome, y)
        keep_vectors(outcome, vectors)
    check_training(problem.case, outcomes)
