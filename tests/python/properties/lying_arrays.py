"""Properties of array descriptions that are wrong. A fault would end the process: run as a program.

    python lying_arrays.py NAME

Before each call the program prints what it is about to do, so that the last line of a run that
crashed is the example that did it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import profiles  # noqa: E402, F401 - loads one
from dlpack_producer import Producer  # noqa: E402

import syncnorm  # noqa: E402
from syncnorm import _core  # noqa: E402

# OutOfMemoryError: the workspace of a call with so many channels or positions.
REFUSED = (
    syncnorm.InvalidArgumentError,
    syncnorm.UnsupportedError,
    syncnorm.OutOfMemoryError,
)
DTYPES = {
    "float16": (2, 16, 1),
    "bfloat16": (4, 16, 1),
    "float32": (2, 32, 1),
    "float64": (2, 64, 1),
    "int64": (0, 64, 1),
    "uint8": (1, 8, 1),
    "bool": (6, 8, 1),
}
FLOATS = ("float16", "bfloat16", "float32", "float64")
LIMIT = 2**63

SMALL = st.integers(0, 4)
ODD = st.sampled_from(
    (-LIMIT, -(2**31), -2, -1, 2**15, 2**31, 2**40, 2**61, 2**62, 2**62 + 1, LIMIT - 1)
)
SIZES = SMALL | ODD


def announce(*what: object) -> None:
    print(*what, flush=True)


def dense_strides(shape: Sequence[int]) -> list[int]:
    """Row-major strides, reduced to 64 bits as a careless producer has them."""
    strides = [math.prod(max(n, 1) for n in shape[axis + 1 :]) for axis in range(len(shape))]
    return [(s + LIMIT) % (2 * LIMIT) - LIMIT for s in strides]


@given(
    length=st.integers(0, 64),
    reverse=st.booleans(),
    dtype=st.sampled_from(list(DTYPES)),
    axes=st.lists(st.tuples(SIZES, st.integers(-4, 8) | ODD), max_size=4),
)
def array_over_a_buffer(
    length: int, reverse: bool, dtype: str, axes: list[tuple[int, int]]
) -> None:
    """Array accepts exactly what lies inside the buffer, and has a size that fits 63 bits.

    No memory is read.
    """
    memory = np.zeros(length, np.uint8)
    buffer = memory[::-1] if reverse else memory
    shape, strides = [n for n, _ in axes], [s for _, s in axes]
    itemsize = DTYPES[dtype][1] // 8
    inside = range(-length + 1, 2) if reverse else range(length + 1)
    reach = [(n - 1) * s * itemsize for n, s in axes]
    lowest = sum(r for r in reach if r < 0)
    highest = sum(r for r in reach if r > 0) + itemsize
    empty = 0 in shape
    fits = empty or (min(inside) <= lowest and highest <= max(inside))
    size = math.prod(max(n, 1) for n in shape) * itemsize  # axes of size 0 count as 1
    valid = all(n >= 0 for n in shape) and size < LIMIT and fits
    announce("Array", length, reverse, shape, strides, dtype)
    try:
        _core.Array(buffer, shape, strides, dtype)
        accepted = True
    except syncnorm.InvalidArgumentError:
        accepted = False
    assert accepted == valid


@st.composite
def descriptions(draw: st.DrawFn) -> Producer:
    """Any description, with an address that must not be read."""
    shape = draw(st.lists(SIZES, max_size=5))
    strides = draw(
        st.just(dense_strides(shape))
        | st.lists(SIZES, min_size=len(shape), max_size=len(shape))
        | st.none()
    )
    return Producer(
        draw(st.sampled_from((0, 1, 64, 2**40, 2**64 - 64))),
        draw(st.sampled_from((shape, shape, shape, None))),
        strides,
        draw(st.sampled_from(list(DTYPES.values())) | DTYPE_FIELDS),
        draw(st.sampled_from(((1, 0), (1, 0), (2, 0), (3, 0), (13, 0), (0, 0), (99, -1), (-1, 7)))),
        draw(st.sampled_from((None, None, None, -1, 65, 2**31 - 1, -(2**31)))),
        draw(st.sampled_from((0, 0, 1, 64, 2**63, 2**64 - 1))),
    )


DTYPE_FIELDS = st.tuples(
    st.sampled_from((0, 1, 2, 3, 4, 5, 6, 7, 17, 255)),
    st.sampled_from((0, 1, 4, 8, 16, 24, 32, 64, 128, 255)),
    st.sampled_from((0, 1, 2, 65535)),
)


@given(producer=descriptions(), centering=st.sampled_from(("on", "off")))
def sizes_of_any_description(producer: Producer, centering: str) -> None:
    """Sizes are exact or refused."""
    announce("sizes", producer, centering)
    options = _core.Options(centering=centering)
    try:
        sizes = _core.sizes(producer, options)
    except REFUSED:
        return
    assert producer.dtype in [DTYPES[name] for name in FLOATS]
    assert all(n >= 0 for n in producer.shape)
    channels = producer.shape[1]
    assert sizes.wire == 2 * channels + 4
    assert sizes.center_wire == (channels + 2 + channels % 2 if centering == "on" else 0)
    assert (sizes.grad_wire, sizes.saved) == (2 * channels + 2, 3 * channels + 2)
    assert sizes.workspace >= 0


N, C, S = 2, 3, 4
ROOM = 4096  # bytes behind each array: more than any description that could be accepted covers
SHAPES = {
    "x": ((N, C, S), "float32"),
    "y": ((N, C, S), "float32"),
    "saved": ((3 * C + 2,), "float64"),
    "mask": ((N, S), "uint8"),
    "residual": ((N, C, S), "float32"),
    "weight": ((C,), "float32"),
    "bias": ((C,), "float32"),
    "running_mean": ((C,), "float32"),
    "running_var": ((C,), "float32"),
    "num_batches_tracked": ((1,), "int64"),
}
OUTPUTS = ("y", "saved", "running_mean", "running_var", "num_batches_tracked")


def honest(name: str, memory: np.ndarray) -> Producer:
    shape, dtype = SHAPES[name]
    return Producer(memory.ctypes.data, shape, dense_strides(shape), DTYPES[dtype])


def lies(honest_one: Producer) -> st.SearchStrategy[Producer]:
    """Descriptions with one to three wrong fields."""
    ndim = len(honest_one.shape)
    fields = {
        "data": st.sampled_from((0, honest_one.data + 1, honest_one.data + 2)),
        "shape": st.lists(SIZES, min_size=ndim, max_size=ndim) | st.lists(SIZES, max_size=6),
        "strides": st.lists(SMALL | ODD, min_size=ndim, max_size=ndim) | st.none(),
        "dtype": st.sampled_from(list(DTYPES.values())) | DTYPE_FIELDS,
        "device": st.sampled_from(((2, 0), (0, 0), (4, 1), (99, 0))),
        "ndim": st.sampled_from((-1, 0, 1, 65, 2**31 - 1)),
    }

    def changed(wrong: dict[str, Any]) -> Producer:
        # Strides as long as the shape that is read, which no consumer can check.
        shape, strides = wrong.get("shape", honest_one.shape), wrong.get("strides", ())
        if strides is not None and len(strides) != len(shape):
            wrong = wrong | {"strides": dense_strides(shape)}
        return replace(honest_one, **wrong)

    some = st.lists(st.sampled_from(list(fields)), min_size=1, max_size=3, unique=True)
    return some.flatmap(lambda names: st.fixed_dictionaries({n: fields[n] for n in names})).map(
        changed
    )


@given(st.data())
def forward_with_one_lie(data: st.DataObject) -> None:
    """A call with one wrong description is refused, and then nothing has been written."""
    memories = {name: np.full(ROOM, 1, np.uint8) for name in SHAPES}
    producers = {name: honest(name, memory) for name, memory in memories.items()}
    liar = data.draw(st.sampled_from(list(SHAPES)))
    producers[liar] = data.draw(lies(producers[liar]))
    ndim, shape = producers[liar].ndim, producers[liar].shape
    assume(ndim is None or ndim < 0 or ndim > 64 or ndim <= len(shape))
    announce("forward", liar, producers[liar])
    before = {name: memory.tobytes() for name, memory in memories.items()}
    try:
        _core.forward(_core.Options(), None, **producers)
    except REFUSED:
        for name, memory in memories.items():
            assert memory.tobytes() == before[name], f"{name} was written"
        return
    for name, memory in memories.items():
        shape, dtype = SHAPES[name]
        size = math.prod(shape) * DTYPES[dtype][1] // 8 if name in OUTPUTS else 0
        assert memory.tobytes()[size:] == before[name][size:], f"{name} was written beyond its end"


@given(
    shape=st.lists(SMALL | ODD.filter(lambda n: n > 0), min_size=3, max_size=5),
    empty=st.sampled_from((0, 2, 3, 4)),
    as_array=st.booleans(),
)
def forward_without_elements(shape: list[int], empty: int, as_array: bool) -> None:
    """A call without elements is refused or ends at once, however large the other sizes are."""
    assume(empty < len(shape) and shape[1] > 0)
    shape[empty] = 0
    strides = dense_strides(shape)
    announce("forward", shape, as_array)
    try:
        x: Any = Producer(64, shape, strides)
        x = _core.Array(64, shape, strides, "float32") if as_array else x
        saved = np.zeros(min(_core.sizes(x, _core.Options()).saved, 2**20))
        _core.forward(_core.Options(), None, x, x, saved=honest_vector(saved))
    except REFUSED:
        return


def honest_vector(values: np.ndarray) -> _core.Array:
    return _core.Array(values, values.shape, (1,), "float64")


PROPERTIES: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        array_over_a_buffer,
        sizes_of_any_description,
        forward_with_one_lie,
        forward_without_elements,
    )
}

if __name__ == "__main__":
    PROPERTIES[sys.argv[1]]()
