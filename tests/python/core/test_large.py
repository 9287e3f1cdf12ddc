"""Index arithmetic of large shapes, and what can be checked of 64 bits without the memory for it.

A tensor with more than 2^31 values takes 4 GB in float16: too much for a test that runs everywhere.
Here the metadata goes to 64 bits, and the walk through memory is checked on shapes with many chunks
and tasks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import syncnorm
from support.buffers import dense_strides
from support.cases import Case, ShardData, Vector
from support.driver import run_phases
from syncnorm import _core


def view(shape: tuple[int, ...], layout: str = "first", dtype: str = "float16") -> _core.Array:
    """Metadata alone: nothing reads the address."""
    return _core.Array(64, shape, dense_strides(shape, layout), dtype)


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(
    "shape", [(2**16, 3, 2**16), (2**33, 1), (1, 2**20, 2**20), (2, 2, 2**31, 2)], ids=str
)
def test_sizes_beyond_32_bits(shape: tuple[int, ...], layout: str) -> None:
    sizes = _core.sizes(view(shape, layout), _core.Options())
    channels = shape[1]
    assert sizes.wire == 2 * channels + 4
    assert sizes.grad_wire == 2 * channels + 2
    assert sizes.saved == 3 * channels + 2
    # Scratch is a few vectors of C and a partial result for each chunk: far below 2 bytes a value.
    assert sizes.workspace < 2**22 + 2**15 * channels + 2 * math.prod(shape) // 256


def test_more_values_than_can_be_addressed() -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match="product that fits"):
        _core.sizes(view((2**40, 2**20, 2**10)), _core.Options())


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1_500_007), (300_007, 5), (1, 3, 400_009), (40_009, 3, 7), (2, 70_001, 3)],
    ids=str,
)
def test_every_value_is_reached_once(shape: tuple[int, ...], layout: str) -> None:
    """Primes of chunks: integer sums come out exact, every y and dx is written."""
    generator = np.random.default_rng(shape[1])
    x = generator.integers(-8, 9, shape) * 1.0
    dy = generator.integers(-8, 9, shape) * 1.0
    ones = Vector(np.ones(shape[1]), "float32")
    case = Case("float32", shape[1], [ShardData(x, dy)], layout, weight=ones)
    (rank,) = run_phases(case, threads=2)
    axes = (0, *range(2, len(shape)))
    wire, grad_wire = rank.out["wire"].values, rank.out["grad_wire"].values
    sums = x.sum(axis=axes)
    # n times a quotient: one rounding of the mean and one of the product.
    np.testing.assert_allclose(wire[4 : 4 + shape[1]], sums, rtol=2**-51, atol=2**-30)
    np.testing.assert_array_equal(grad_wire[2 : 2 + shape[1]], dy.sum(axis=axes))
    for name in ("y", "dx"):
        assert np.isfinite(rank.out[name].values).all(), f"{name} was not written everywhere"
    saved = rank.out["saved"].values[2:].reshape(3, shape[1])
    centred = x - saved[0].reshape(1, -1, *[1] * (len(shape) - 2))
    expected = centred * saved[1].reshape(1, -1, *[1] * (len(shape) - 2))
    np.testing.assert_allclose(rank.out["y"].values, expected, rtol=4 * 2**-23, atol=4 * 2**-23)
