"""The examples build on the installed package, each as a project of its own, and are right."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from support.cmake_project import build
from support.mpirun import mpirun

EXAMPLES = Path(__file__).parents[3] / "examples"
EPS = np.finfo(np.float64).eps
EPS32 = np.finfo(np.float32).eps

Arrays = dict[str, np.ndarray]


def program(name: str, folder: Path, *options: str) -> Path:
    return build(EXAMPLES / name, folder, *options) / name


def run(command: list[object], cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def numbers_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d\.\d+(?:e[+-]\d+)?", text)]


def test_world_of_one(tmp_path: Path) -> None:
    lines = run([program("01_world_of_one", tmp_path)]).splitlines()
    # Paddle's documented example; running statistics with its unbiased variance.
    assert numbers_in(lines[0]) == pytest.approx(
        [0.268249, 1.093633, 0.268249, -1.630132, 0.026750, 0.901956], abs=2e-6
    )
    assert numbers_in(lines[1])[:4] == pytest.approx(
        [0.809566, -0.665287, -1.274466, 1.130187], abs=2e-6
    )


def test_threads_as_ranks(tmp_path: Path) -> None:
    """Unequal ranks, compared by the example itself with one big batch."""
    _, differences, *statistics = run([program("02_threads_as_ranks", tmp_path)]).splitlines()
    assert len(numbers_in(differences)) == 2
    assert max(numbers_in(differences)) < 16 * EPS32  # of values up to 2
    assert len(statistics) == 3
    for line in statistics:
        mean, expected_mean, var, expected_var = numbers_in(line)
        # A unit of the last digit that is printed.
        assert (mean, var) == pytest.approx((expected_mean, expected_var), rel=0, abs=1.1e-6)


def test_overlap(tmp_path: Path) -> None:
    """The phases used apart give the bits of one call, and the numbers of one rank."""
    beside_one_call, beside_one_rank = run([program("06_overlap", tmp_path)]).splitlines()
    assert numbers_in(beside_one_call) == [0, 0]
    assert len(numbers_in(beside_one_rank)) == 2
    assert max(numbers_in(beside_one_rank)) < 4 * 8 * EPS32  # of values up to 8


# ------------------------------------------------------------------------------- 03: MPI trainer

# Of the 1437 samples 239 are no multiple of 4, and of the last step's 3 two ranks of 4 get none.
SETTINGS = ["--batch", 239, "--epochs", 2]
STEPS = 14
KEPT_BACK = 360
# Relative to the largest value of an array; up to 17 EPS were seen. A step adds its own rounding,
# and hands on those of the steps before.
BOUND = 8 * STEPS * EPS


class Trainer:
    """The example, and the digits that it reads."""

    def __init__(self, folder: Path) -> None:
        self.program = program("03_mpi_trainer", folder, "-DCMAKE_BUILD_TYPE=Release")
        self.digits, self._saved = folder / "digits.csv", folder / "saved"
        export = EXAMPLES / "03_mpi_trainer" / "export_digits.py"
        run([sys.executable, export, self.digits])

    def on_ranks(self, ranks: int, *settings: object, digits: Path | None = None) -> Arrays:
        """Run it; give what it saves."""
        command = [self.program, digits or self.digits, *settings, "--save", self._saved]
        if ranks == 1:
            text = run(command)
        else:
            done = mpirun(ranks, *command)
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
            text = done.stdout
        assert f"ranks: {ranks}," in text
        lines = self._saved.read_text(encoding="utf-8").splitlines()
        return {name: np.array(values, float) for name, *values in map(str.split, lines)}


@pytest.fixture(scope="module", name="trainer")
def mpi_trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("03_mpi_trainer"))


@pytest.fixture(scope="module", name="expected")
def of_one_rank(trainer: Trainer) -> Arrays:
    return trainer.on_ranks(1, *SETTINGS)


def largest_difference(actual: Arrays, expected: Arrays) -> float:
    """Over all arrays, each relative to its largest value."""
    assert actual.keys() == expected.keys()
    return max(
        float(np.abs(actual[name] - value).max() / np.abs(value).max())
        for name, value in expected.items()
    )


def test_four_ranks_train_as_one(trainer: Trainer, expected: Arrays) -> None:
    assert expected["losses"].shape == (STEPS,)
    assert expected["losses"][-1] < expected["losses"][0] / 10
    assert largest_difference(trainer.on_ranks(4, *SETTINGS), expected) < BOUND


def test_without_synchronization_they_do_not(trainer: Trainer, expected: Arrays) -> None:
    assert largest_difference(trainer.on_ranks(4, *SETTINGS, "--local"), expected) > 1e-2


def test_the_gradients_are_those_of_autograd(trainer: Trainer, tmp_path: Path) -> None:
    """Of whole batches: their order, which C++ draws, makes no difference."""
    lines = trainer.digits.read_text(encoding="utf-8").splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join(lines[: KEPT_BACK + 64]), encoding="utf-8")
    initial = trainer.on_ranks(1, "--epochs", 0, digits=few)
    trained = trainer.on_ranks(4, "--epochs", STEPS, digits=few)
    digits = np.loadtxt(few, delimiter=",")[KEPT_BACK:]
    assert largest_difference(trained, by_torch(initial, digits)) < BOUND


def by_torch(initial: Arrays, digits: np.ndarray) -> Arrays:
    images = torch.from_numpy(digits[:, :-1]).reshape(-1, 1, 8, 8) / 16
    labels = torch.from_numpy(digits[:, -1]).long()
    layers = {
        "conv1": torch.nn.Conv2d(1, 8, 3, padding=1, bias=False),
        "norm1": torch.nn.BatchNorm2d(8),
        "conv2": torch.nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        "norm2": torch.nn.BatchNorm2d(16),
        "linear": torch.nn.Linear(16 * 4 * 4, 10, bias=False),
    }
    network = torch.nn.ModuleDict(layers).double()
    state = {n: t for n, t in network.state_dict().items() if "num_batches" not in n}
    for name, tensor in state.items():
        tensor.copy_(torch.from_numpy(initial[name]).reshape(tensor.shape))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        x = layers["norm1"](layers["conv1"](images)).relu()
        x = layers["norm2"](layers["conv2"](x)).relu()
        loss = torch.nn.functional.cross_entropy(layers["linear"](x.flatten(1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = {name: tensor.numpy().ravel() for name, tensor in state.items()}
    return {**trained, "losses": np.array(losses)}
