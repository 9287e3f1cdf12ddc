"""Sizes, counts and aliases beyond the limits: refused at once, in a process that lives on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import syncnorm
from syncnorm import _core

OPTIONS = _core.Options()
N, C, S = 2, 3, 4
HUGE = 2**60


def metadata(shape: tuple[int, ...], dtype: str = "float32") -> _core.Array:
    """An array without memory, for sizes of which the memory could not be had."""
    return _core.Array(0, shape, (1,) * len(shape), dtype)


def owned(values: np.ndarray) -> _core.Array:
    strides = tuple(stride // values.itemsize for stride in values.strides)
    return _core.Array(values, values.shape, strides, values.dtype.name)


@pytest.mark.parametrize(
    "shape",
    [
        (0, HUGE),
        (0, 2**62),
        (0, 2**63 - 1),
        (HUGE, 0, 1),
        (0, 2**31, 2**31),
        (2**31, 0, 2**31),
        (2**31, 2**31, 0),
        (2**21, 2**21, 0, 2**21),
        (2**32, 2**32, 2**32),
        (1, 2**49),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sizes_whose_products_wrap(shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match="shape"):
        _core.sizes(metadata(shape, dtype), OPTIONS)


@pytest.mark.parametrize("shape", [(0, 2**48), (2**34, 8, 0), (2**24, 0, 2**24), (1, 2**48)])
def test_sizes_at_the_limit(shape: tuple[int, ...]) -> None:
    sizes = _core.sizes(metadata(shape), OPTIONS)
    assert sizes.wire == 2 * shape[1] + 4
    assert sizes.saved == 3 * shape[1] + 2
    assert sizes.workspace >= 4 * 8 * shape[1]


@pytest.mark.parametrize("shape", [(2**34, 8, 0), (2**44, 1, 0), (0, 8, 2**44), (2**24, 0, 2**24)])
def test_huge_tensors_without_values(shape: tuple[int, ...]) -> None:
    channels = shape[1]
    x = metadata(shape)
    mean, var = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    saved = np.zeros(_core.sizes(x, OPTIONS).saved)
    _core.forward(
        OPTIONS, None, x, x, saved=owned(saved), running_mean=owned(mean), running_var=owned(var)
    )
    _core.backward(OPTIONS, None, x, x, owned(saved), dx=x, dweight=owned(mean))
    assert not mean.any()
    assert (var == 1).all()


def arguments() -> dict[str, Any]:
    x = np.arange(float(N * C * S), dtype=np.float32).reshape(N, C, S)
    return {
        "x": owned(x),
        "y": owned(np.zeros_like(x)),
        "saved": owned(np.zeros(3 * C + 2)),
        "weight": owned(np.ones(C, np.float32)),
        "running_mean": owned(np.zeros(C, np.float32)),
        "running_var": owned(np.ones(C, np.float32)),
        "num_batches_tracked": owned(np.zeros(1, np.int64)),
    }


def refused(message: str, **changed: Any) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=message):
        _core.forward(OPTIONS, None, **arguments() | changed)


def test_the_unchanged_call_is_accepted() -> None:
    _core.forward(OPTIONS, None, **arguments())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("running_mean", "running_var"),
        ("running_mean", "weight"),
        ("y", "x"),
    ],
)
def test_outputs_that_are_another_argument(one: str, other: str) -> None:
    shared = arguments()[other]
    refused(f"{one} overlaps {other}", **{one: shared, other: shared})


def test_outputs_that_overlap_in_part() -> None:
    memory = np.ones(100, np.float32)
    refused(
        "y overlaps running_var",
        y=_core.Array(memory, (N, C, S), (C * S, S, 1), "float32"),
        running_var=owned(memory[N * C * S - 1 :][:C]),
    )
    assert (memory == 1).all()


@pytest.mark.parametrize("count", [-1, -(2**63), 2**63 - 1])
def test_numbers_of_batches_that_cannot_be(count: int) -> None:
    counter = np.full(1, count)
    refused("num_batches_tracked is", num_batches_tracked=owned(counter))
    assert counter == count


@pytest.mark.parametrize("threads", [0, -1, 4097, 2**31 - 1, -(2**31)])
def test_numbers_of_threads(threads: int) -> None:
    refused("launch.num_threads is", num_threads=threads)


@pytest.mark.parametrize(
    "name_and_value",
    [
        ("num_threads", 2**31),
        ("num_threads", 2**200),
        ("tag", 2**64),
        ("tag", -1),
        ("stream", 2**64),
        ("stream", -1),
    ],
)
def test_integers_that_no_argument_holds(name_and_value: tuple[str, int]) -> None:
    name, value = name_and_value
    with pytest.raises(TypeError):
        _core.forward(OPTIONS, None, **arguments(), **{name: value})


@pytest.mark.parametrize("group_size", [2**21 + 1, 2**63 - 1, 0, -1])
def test_numbers_of_ranks(group_size: int) -> None:
    wire = owned(np.zeros(2 * C + 4))
    total = owned(np.zeros(2 * C + 4))
    given = arguments()
    x = given.pop("x")
    with pytest.raises(syncnorm.InvalidArgumentError, match="group_size is"):
        _core.normalize(OPTIONS, x, group_size, wire, total, **given)
