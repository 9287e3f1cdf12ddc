"""The MPI example with its import changed to CuPy trains as it does with NumPy; on one rank."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.mpi_digits import EXAMPLE, alone, for_cupy, largest_difference

for package in ("cupy", "mpi4py", "sklearn"):
    pytest.importorskip(package, reason=f"{package} is not installed on this machine")


def test_trains_as_with_numpy(tmp_path: Path) -> None:
    expected = alone(tmp_path / "numpy.npz", EXAMPLE)
    found = alone(tmp_path / "cupy.npz", for_cupy(tmp_path))
    # Float64 in another order, which 14 steps magnify little.
    assert largest_difference(found, expected) < 1e-11
