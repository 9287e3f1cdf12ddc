"""The MPI example gives the same numbers on any number of ranks, and they are torch's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mpi_worlds import mpirun
from sklearn.datasets import load_digits

from support.mpi_digits import (
    BATCH,
    EPOCHS,
    EXAMPLE,
    STEPS,
    Arrays,
    alone,
    arguments,
    for_cupy,
    largest_difference,
    saved,
)

# Float64 in another order; 14 steps have not magnified the differences beyond 1e-14.
BOUND = 1e-12


@pytest.fixture(scope="module", name="expected")
def of_one_process(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return alone(tmp_path_factory.mktemp("alone") / "saved.npz", EXAMPLE)


def on_ranks(ranks: int, path: Path, *more: str) -> Arrays:
    return saved(mpirun(ranks, str(EXAMPLE), *arguments(path), *more), path)


def trained_by_torch() -> Arrays:
    """The example's training in one process, with torch's layers, autograd and optimizer."""
    data, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    training = np.random.default_rng(2).permutation(len(data))[360:]
    data, labels = data[training] / 16, labels[training]
    initial = np.random.default_rng(0)
    first, norm = torch.nn.Linear(64, 32, bias=False), torch.nn.BatchNorm1d(32)
    second = torch.nn.Linear(32, 10)
    network = torch.nn.Sequential(first, norm, torch.nn.ReLU(), second).double()
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(initial.standard_normal((64, 32)).T / 8))
        second.weight.copy_(torch.from_numpy(initial.standard_normal((32, 10)).T / 32**0.5))
        second.bias.zero_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses, order = [], np.random.default_rng(1)
    for _ in range(EPOCHS):
        for batch in torch.from_numpy(order.permutation(len(data))).split(BATCH):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(data[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    trained = {
        "first": first.weight.T,
        "second": second.weight.T,
        "bias": second.bias,
        **{f"norm.{name}": value for name, value in norm.state_dict().items()},
    }
    arrays = {name: value.detach().numpy() for name, value in trained.items()}
    return {**arrays, "losses": np.array(losses)}


def test_one_process_trains_as_torch_does(expected: Arrays) -> None:
    assert expected["losses"].shape == (STEPS,)
    assert largest_difference(expected, trained_by_torch()) < BOUND


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_as_one_process(tmp_path: Path, expected: Arrays, ranks: int) -> None:
    assert largest_difference(on_ranks(ranks, tmp_path / "saved.npz"), expected) < BOUND


def test_without_synchronization_they_do_not(tmp_path: Path, expected: Arrays) -> None:
    local = on_ranks(2, tmp_path / "saved.npz", "--local")
    assert largest_difference(local, expected) > 1e-3


@pytest.mark.skipif(sys.platform != "linux", reason="CuPy has packages for Linux only")
def test_an_import_is_all_that_changes_for_cupy(tmp_path: Path, expected: Arrays) -> None:
    """On arrays that behave as CuPy's; CuPy itself computes in tests/python/gpu."""
    stand_in = Path(__file__).with_name("cupy_stand_in.py")
    found = alone(tmp_path / "saved.npz", stand_in, for_cupy(tmp_path))
    assert largest_difference(found, expected) == 0
