"""The examples build against the installed package, run, and give the right numbers."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import syncbn

EXAMPLES = Path(__file__).parents[3] / "examples"
PACKAGE = Path(syncbn.__file__).parent


@pytest.fixture(scope="module", name="built")
def built_examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    configure = ["cmake", "-S", EXAMPLES, "-B", folder, f"-DCMAKE_PREFIX_PATH={PACKAGE}"]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", folder], check=True)
    return folder


def output(example: Path) -> str:
    return subprocess.run([example], check=True, capture_output=True, text=True).stdout


def test_every_example_is_built(built: Path) -> None:
    sources = [path for path in EXAMPLES.iterdir() if re.match(r"\d\d_", path.name)]
    assert len(sources) >= 2
    assert all((built / path.stem).exists() for path in sources)


def test_world_of_one(built: Path) -> None:
    lines = output(built / "01_world_of_one").splitlines()
    numbers = [[float(n) for n in re.findall(r"-?\d+\.\d+", line)] for line in lines]
    # Paddle's documented example; running statistics with its unbiased variance.
    assert numbers[0] == pytest.approx(
        [0.268249, 1.093633, 0.268249, -1.630132, 0.026750, 0.901956], abs=2e-6
    )
    assert numbers[1][:4] == pytest.approx([0.809566, -0.665287, -1.274466, 1.130187], abs=2e-6)


def test_threads_as_ranks(built: Path) -> None:
    """Unequal ranks, compared by the example itself with one big batch."""
    found = re.search(
        r"largest difference:\s+y (\S+), dx (\S+)", output(built / "02_threads_as_ranks")
    )
    assert found
    assert all(float(difference) < 1e-6 for difference in found.groups())
