"""Runs a group of shards through the functions of an array adapter, as support.driver does through
the core: by the one call, by phases with NumPy as the sum, and with running statistics in use.

What comes back has the results by name as buffers, for support.compare and assert_same_bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from support.buffers import Buffer
from support.cases import Case, ShardData, Vector
from support.driver import WAIT_SECONDS
from support.dtypes import STORAGE
from support.nccl_ranks import each
from syncnorm import Communicator
from syncnorm.comm import thread_group


@contextmanager
def on_host(size: int) -> Iterator[list[Communicator]]:
    """A group whose ranks are threads, in the memory of the host."""
    with ExitStack() as closing:
        yield [closing.enter_context(c) for c in thread_group(size, timeout=WAIT_SECONDS)]


@dataclass(frozen=True)
class Adapter:
    """An adapter under test, and how tests make and read the arrays of its library."""

    functions: ModuleType  # syncnorm.numpy or syncnorm.cupy
    # An array with the buffer's shape, strides, dtype and values: over the buffer's own memory
    # where the library can, so that its guards notice stray writes; else a copy.
    array: Callable[[Buffer], Any]
    read: Callable[[Any], np.ndarray]  # the values of an array, when they are there
    group: Callable[[int], AbstractContextManager[Sequence[Communicator]]] = on_host
    # Entered around all that rank i does: makes its device current.
    on_rank: Callable[[int], AbstractContextManager[Any]] = nullcontext


INPUTS = ("x", "dy", "residual", "mask", "weight", "bias")
UPDATED = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class Rank:
    """The arrays of one rank; `out` is filled by the run."""

    adapter: Adapter
    case: Case
    index: int
    threads: int
    buffers: dict[str, Buffer]
    arrays: dict[str, Any] = field(default_factory=dict)
    out: dict[str, Buffer] = field(default_factory=dict)
    saved: Any = None

    def __post_init__(self) -> None:
        with self.adapter.on_rank(self.index):
            self.arrays = {n: self.adapter.array(buffer) for n, buffer in self.buffers.items()}
        self.before = {name: self.bits(name) for name in self.arrays}

    def bits(self, name: str) -> bytes:
        return self.adapter.read(self.arrays[name]).tobytes()

    def given(self, *names: str) -> dict[str, Any]:
        """Keyword arguments: these arrays, as far as the case has them."""
        return {name: self.arrays[name] for name in names if name in self.arrays}

    @property
    def common(self) -> dict[str, Any]:
        return {"num_threads": self.threads, **self.case.options}

    @property
    def where_to(self) -> dict[str, Any]:
        return {"out": self.arrays["x"]} if self.case.overwrite else {}

    def held(self, array: Any) -> Buffer:
        """The values of a result. Data have to lie in memory as x does."""
        values = self.adapter.read(array)
        layout = self.case.layout if values.ndim > 1 else "first"
        buffer = Buffer(values.shape, values.dtype.name, layout)
        buffer.storage[...] = values.view(STORAGE[buffer.dtype])
        long = [axis for axis, n in enumerate(values.shape) if n > 1 and values.size > 0]
        strides = [array.strides[axis] // array.itemsize for axis in long]
        assert strides == [buffer.strides[axis] for axis in long]
        return buffer

    def keep_forward(self, y: Any, saved: Any) -> None:
        self.saved = saved
        results = {"y": y, "saved": saved.statistics, **self.given(*UPDATED)}
        self.out |= {name: self.held(array) for name, array in results.items()}

    def keep_gradients(self, gradients: Any) -> None:
        dx, dweight, dbias = gradients
        results = {"dx": dx, "dweight": dweight, "dbias": dbias, "dresidual": gradients.dresidual}
        present = {name: array for name, array in results.items() if array is not None}
        self.out |= {name: self.held(array) for name, array in present.items()}
        self.check_inputs(INPUTS)

    def check_inputs(self, names: Sequence[str]) -> None:
        """These are as they were, and so is what lies around all."""
        for buffer_name, buffer in self.buffers.items():
            buffer.check_guards(buffer_name)
        for name in self.given(*names):
            overwritten = name == "x" and self.case.overwrite
            assert overwritten or self.bits(name) == self.before[name], f"{name} was written"


def make_rank(adapter: Adapter, case: Case, index: int, shard: ShardData, threads: int) -> Rank:
    def vector(value: Vector | None) -> Buffer | None:
        return None if value is None else Buffer.of(value.values, value.dtype)

    def data(values: np.ndarray | None) -> Buffer | None:
        return None if values is None else Buffer.of(values, case.dtype, case.layout)

    counter = None if case.batches is None else Buffer.of(np.array([case.batches]), "int64")
    buffers = {
        "x": data(shard.x),
        "dy": data(shard.dy),
        "residual": data(shard.residual),
        "mask": None if shard.mask is None else Buffer.of(shard.mask, "uint8"),
        "num_batches_tracked": counter,
        **{n: vector(getattr(case, n)) for n in ("weight", "bias", "running_mean", "running_var")},
    }
    present = {name: buffer for name, buffer in buffers.items() if buffer is not None}
    return Rank(adapter, case, index, threads, present)


def make_ranks(adapter: Adapter, case: Case, threads: int) -> list[Rank]:
    return [make_rank(adapter, case, i, shard, threads) for i, shard in enumerate(case.shards)]


FORWARD = ("weight", "bias", *UPDATED, "residual", "mask")


def both_passes(rank: Rank, comm: Communicator | None, *, training: bool = True) -> None:
    """The one-call form. Without training the counter of batches is left alone."""
    functions, x = rank.adapter.functions, rank.arrays["x"]
    with rank.adapter.on_rank(rank.index):
        y, saved = functions.forward(
            x,
            **rank.given(*FORWARD),
            **rank.where_to,
            comm=comm,
            training=training,
            **rank.common,
        )
        rank.keep_forward(y, saved)
        rank.keep_gradients(functions.backward(rank.arrays["dy"], saved))


def run_one_call(
    adapter: Adapter, case: Case, threads: int = 1, *, alone: bool = False
) -> list[Rank]:
    """alone: without a communicator, for a group of one."""
    ranks = make_ranks(adapter, case, threads)
    if alone:
        (rank,) = ranks
        both_passes(rank, None)
        return ranks
    with adapter.group(len(ranks)) as comms:
        pairs = list(zip(ranks, comms, strict=True))
        each(pairs, lambda pair: both_passes(*pair))
    return ranks


def totals(ranks: Sequence[Rank], wires: Sequence[Any]) -> list[Any]:
    """The sum of the wires for each rank, added in the order of the ranks, as threads do."""
    values = [rank.adapter.read(wire) for rank, wire in zip(ranks, wires, strict=True)]
    total = values[0]
    for more in values[1:]:
        total = total + more
    return on_each(ranks, lambda rank: rank.adapter.array(Buffer.of(total, "float64")))


def on_each(ranks: Sequence[Rank], call: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
    """[call(rank, *row) for each rank], each where it runs."""
    results = []
    for rank, *row in zip(ranks, *columns, strict=True):
        with rank.adapter.on_rank(rank.index):
            results.append(call(rank, *row))
    return results


def run_phases(adapter: Adapter, case: Case, threads: int = 1) -> list[Rank]:
    ranks = make_ranks(adapter, case, threads)
    forward_phases(ranks)
    backward_phases(ranks)
    return ranks


def forward_phases(ranks: Sequence[Rank]) -> None:
    functions, size = ranks[0].adapter.functions, len(ranks)

    def moments(rank: Rank) -> tuple[Any, Any]:
        return functions.moments(rank.arrays["x"], **rank.given("mask"), **rank.common)

    def center(rank: Rank, wire: Any, total: Any, local_var: Any) -> Any:
        x = rank.arrays["x"]
        return functions.center(x, wire, total, local_var, size, **rank.case.options)

    def normalize(rank: Rank, wire: Any, total: Any, center_total: Any) -> None:
        y, saved = functions.normalize(
            rank.arrays["x"],
            wire,
            total,
            size,
            **rank.given(*FORWARD),
            **rank.where_to,
            center_total=center_total,
            **rank.common,
        )
        rank.keep_forward(y, saved)

    wires, local_vars = zip(*on_each(ranks, moments), strict=True)
    sums = totals(ranks, wires)
    center_totals: Sequence[Any] = [None] * size
    if ranks[0].case.centred:
        center_totals = totals(ranks, on_each(ranks, center, wires, sums, local_vars))
    on_each(ranks, normalize, wires, sums, center_totals)


def backward_phases(ranks: Sequence[Rank]) -> None:
    functions, size = ranks[0].adapter.functions, len(ranks)

    def grad_moments(rank: Rank) -> Any:
        return functions.grad_moments(rank.arrays["dy"], rank.saved)

    def grad_input(rank: Rank, wire: Any, total: Any) -> None:
        dy = rank.arrays["dy"]
        rank.keep_gradients(functions.grad_input(dy, rank.saved, wire, total, size))

    wires = on_each(ranks, grad_moments)
    on_each(ranks, grad_input, wires, totals(ranks, wires))


def run_frozen(adapter: Adapter, case: Case, threads: int = 1) -> list[Rank]:
    """Running statistics in use: forward without training, whose y is that of infer."""
    ranks = make_ranks(adapter, case, threads)
    for rank in ranks:
        names = ("weight", "bias", "running_mean", "running_var", "residual")
        with adapter.on_rank(rank.index):
            y = adapter.functions.infer(
                rank.arrays["x"],
                **{"weight": None, "bias": None} | rank.given(*names),
                **rank.common,
            )
        both_passes(rank, None, training=False)
        assert rank.held(y).bits == rank.out["y"].bits
        rank.check_inputs(UPDATED)
    return ranks
