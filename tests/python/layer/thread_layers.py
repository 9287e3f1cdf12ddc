"""Layers of the NumPy adapter on ranks that are threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from syncnorm import Communicator
from syncnorm.comm import thread_group

Result = TypeVar("Result")

# float64 with sums of some hundred terms, of magnitude up to about 10.
BOUND = 1e-12


def on_ranks(count: int, body: Callable[[int, Communicator], Result]) -> list[Result]:
    """body(rank, communicator) in one thread for each rank; what each returned, or raised."""
    communicators = thread_group(count, timeout=60.0)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(body, rank, comm) for rank, comm in enumerate(communicators)]
        return [future.result() for future in futures]


def random_arrays(shapes: Sequence[tuple[int, ...]], seed: int, dtype: Any = float) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [(2 * generator.standard_normal(shape) + 1).astype(dtype) for shape in shapes]


def assert_near(actual: Any, expected: Any, bound: float = BOUND) -> None:
    """Equal but for rounding in sums whose terms are as large as the largest value, or 1."""
    expected = np.asarray(expected, np.longdouble)
    size = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * float(size))


def trained(layer: Any) -> Any:
    """The layer, with numbers in its arrays that no constructor makes."""
    generator = np.random.default_rng(7)
    for name in ("weight", "bias", "running_mean", "running_var"):
        array = getattr(layer, name)
        if array is not None:
            array[...] = generator.uniform(1, 2, array.shape)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked[...] = 5
    return layer
