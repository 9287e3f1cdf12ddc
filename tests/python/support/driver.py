"""Runs a group of shards through the core: by phases, NumPy being the sum, or by the one call.

Every output starts as NaN bytes, every workspace as garbage, and all of them stand between canaries
that are checked after each call, as is that no input changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from support.buffers import Buffer, workspace
from support.cases import Case, ShardData, Vector
from syncnorm import _core
from syncnorm.comm import thread_group

WAIT_SECONDS = 60.0


@dataclass
class Rank:
    """The buffers of one rank. `out` is filled by the run; `given` must not change."""

    given: dict[str, Buffer | None]
    options: _core.Options
    threads: int
    size: int
    out: dict[str, Buffer] = field(default_factory=dict)
    tag: int = 0
    status: Buffer | None = None
    control: Buffer | None = None
    check_inputs: bool = True
    device: tuple[str, int] = ("cpu", 0)
    scratches: list[Buffer] = field(default_factory=list)  # a stream may still work on them

    @property
    def sizes(self) -> _core.Sizes:
        return _core.sizes(self.array("x"), self.options)

    def array(self, name: str) -> _core.Array | None:
        buffer = self.out.get(name) or self.given.get(name)
        return None if buffer is None else buffer.on(*self.device)

    def arrays(self, *names: str) -> dict[str, _core.Array | None]:
        return {name: self.array(name) for name in names}

    def call(self, function: Callable[..., None], *args: object, **kwargs: object) -> None:
        """One call of the core with a fresh garbage workspace; then looks for stray writes."""
        scratch = workspace(self.sizes.workspace)
        self.scratches.append(scratch)
        before = {k: b.bits for k, b in self.given.items() if b is not None}
        common = {"num_threads": self.threads, "workspace": scratch.on(*self.device)}
        if self.tag:
            common["tag"] = self.tag
        for name in ("status", "control"):
            if (buffer := getattr(self, name)) is not None:
                common[name] = buffer.on(*self.device)
        try:
            function(self.options, *args, **common, **kwargs)
        finally:
            self.check(scratch, before)

    def check(self, scratch: Buffer, before: dict[str, bytes]) -> None:
        scratch.check_guards("workspace")
        for name, buffer in (*self.out.items(), *self.given.items()):
            if buffer is not None:
                buffer.check_guards(name)
        for name, bits in before.items():
            if self.check_inputs and self.given[name].bits != bits:
                raise AssertionError(f"input {name} was written")

    def new(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        self.out[name] = Buffer(shape, dtype)
        return self.out[name]


def make_rank(case: Case, shard: ShardData, threads: int, device: tuple[str, int]) -> Rank:
    def vector(value: Vector | None) -> Buffer | None:
        return None if value is None else Buffer.of(value.values, value.dtype)

    def data(values: np.ndarray | None) -> Buffer | None:
        return None if values is None else Buffer.of(values, case.dtype, case.layout)

    mask = None if shard.mask is None else Buffer.of(shard.mask, "uint8")
    given = {
        "x": data(shard.x),
        "dy": data(shard.dy),
        "residual": data(shard.residual),
        "mask": mask,
        "weight": vector(case.weight),
        "bias": vector(case.bias),
    }
    options = _core.Options(**case.options)
    rank = Rank(given, options, threads, len(case.shards), device=device)
    if case.overwrite:
        rank.out["x"] = rank.out["y"] = data(shard.x)
    else:
        rank.out["y"] = Buffer(shard.x.shape, case.dtype, case.layout)
    rank.new("saved", (rank.sizes.saved,), "float64")
    # Running statistics are in and out: copies of the case's own.
    for name in ("running_mean", "running_var"):
        if (value := getattr(case, name)) is not None:
            rank.out[name] = vector(value)
    if case.batches is not None:
        rank.out["num_batches_tracked"] = Buffer.of(np.array([case.batches]), "int64")
    return rank


def make_ranks(case: Case, threads: int = 1, device: str = "cpu") -> list[Rank]:
    """device: "cpu", or "cuda" for rank i on CUDA device i."""
    return [
        make_rank(case, shard, threads, (device, 0 if device == "cpu" else i))
        for i, shard in enumerate(case.shards)
    ]


def add_gradients(case: Case, rank: Rank) -> None:
    """Outputs of the backward pass; y becomes its input where it is asked for, in place as x."""
    if case.policy.in_place:
        rank.out["x"] = rank.out["y"]
    shape = rank.given["x"].shape
    rank.out["dx"] = Buffer(shape, case.dtype, case.layout)
    if rank.given["residual"] is not None:
        rank.out["dresidual"] = Buffer(shape, case.dtype, case.layout)
    for name in ("weight", "bias"):
        value = getattr(case, name)
        dtype = value.dtype if value is not None else case.arithmetic
        rank.new(f"d{name}", (case.channels,), dtype)


def saved_y(case: Case, rank: Rank) -> dict[str, _core.Array | None]:
    """The backward pass takes the forward's output just where it cannot recompute the sign."""
    needed = case.options["activation"] != "identity" and rank.given["residual"] is not None
    return {"y": rank.array("y") if needed else None}


def sum_over_ranks(ranks: Sequence[Rank], wire: str, total: str) -> None:
    """Adds in the order of the ranks, as the thread communicator does, so that bits compare."""
    values = ranks[0].out[wire].storage
    for rank in ranks[1:]:
        values = values + rank.out[wire].storage
    for rank in ranks:
        rank.out[total] = Buffer.of(values, "float64")


FORWARD = ("residual", "weight", "bias", "running_mean", "running_var", "num_batches_tracked")
GRADIENTS = ("dx", "dresidual", "dweight", "dbias")


def moments(rank: Rank) -> None:
    rank.new("wire", (rank.sizes.wire,), "float64")
    if rank.sizes.center_wire:
        rank.new("local_var", (rank.given["x"].shape[1],), "float64")
    rank.call(
        _core.moments, rank.array("x"), rank.array("wire"), **rank.arrays("mask", "local_var")
    )


def center(rank: Rank) -> None:
    rank.new("center_wire", (rank.sizes.center_wire,), "float64")
    wires = [rank.array(n) for n in ("wire", "total", "local_var", "center_wire")]
    rank.call(_core.center, rank.array("x"), rank.size, *wires)


def normalize(rank: Rank, names: Sequence[str] = FORWARD) -> None:
    wires = [rank.array(n) for n in ("wire", "total", "y")]
    others = rank.arrays("center_total", "saved", *names)
    rank.call(_core.normalize, rank.array("x"), rank.size, *wires, **others)


def forward_phases(ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        moments(rank)
    sum_over_ranks(ranks, "wire", "total")
    if ranks[0].sizes.center_wire:
        for rank in ranks:
            center(rank)
        sum_over_ranks(ranks, "center_wire", "center_total")
    for rank in ranks:
        normalize(rank)


def grad_moments(case: Case, rank: Rank) -> None:
    rank.new("grad_wire", (rank.sizes.grad_wire,), "float64")
    arrays = [rank.array(n) for n in ("x", "dy", "saved", "grad_wire")]
    rank.call(_core.grad_moments, *arrays, **rank.arrays("weight", "bias"), **saved_y(case, rank))


def grad_input(case: Case, rank: Rank) -> None:
    arrays = [rank.array(n) for n in ("x", "dy", "saved")]
    wires = [rank.array(n) for n in ("grad_wire", "grad_total")]
    others = rank.arrays(*GRADIENTS, "weight", "bias", "mask")
    rank.call(_core.grad_input, *arrays, rank.size, *wires, **others, **saved_y(case, rank))


def backward_phases(case: Case, ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        add_gradients(case, rank)
        grad_moments(case, rank)
    sum_over_ranks(ranks, "grad_wire", "grad_total")
    for rank in ranks:
        grad_input(case, rank)


def run_phases(case: Case, threads: int = 1, device: str = "cpu") -> list[Rank]:
    ranks = make_ranks(case, threads, device)
    forward_phases(ranks)
    backward_phases(case, ranks)
    return ranks


def forward_call(rank: Rank, comm: _core.Communicator | None) -> None:
    arrays = (rank.array("x"), rank.array("y"))
    rank.call(_core.forward, comm, *arrays, **rank.arrays("saved", "mask", *FORWARD))


def backward_call(case: Case, rank: Rank, comm: _core.Communicator | None) -> None:
    arrays = [rank.array(n) for n in ("x", "dy", "saved")]
    others = rank.arrays(*GRADIENTS, "weight", "bias", "mask")
    rank.call(_core.backward, comm, *arrays, **others, **saved_y(case, rank))


def on_threads(work: Callable[[int, _core.Communicator], None], size: int) -> None:
    """work(rank, comm) on one thread for each rank; raises the first rank's error."""
    comms = thread_group(size, timeout=WAIT_SECONDS)
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(work, i, comm) for i, comm in enumerate(comms)]
        errors = [future.exception() for future in futures]
    for comm in comms:
        comm.close()
    for error in errors:
        if error is not None:
            raise error


def run_one_call(
    case: Case, threads: int = 1, *, alone: bool = False, device: str = "cpu"
) -> list[Rank]:
    """alone: without a communicator, for a group of one."""
    ranks = make_ranks(case, threads, device)

    def work(index: int, comm: _core.Communicator | None) -> None:
        forward_call(ranks[index], comm)
        add_gradients(case, ranks[index])
        backward_call(case, ranks[index], comm)

    if alone:
        (_,) = ranks
        work(0, None)
    else:
        on_threads(work, len(ranks))
    return ranks


def run_frozen(case: Case, threads: int = 1, device: str = "cpu") -> list[Rank]:
    """Running statistics in use: infer and infer_backward, rank by rank."""
    ranks = make_ranks(case, threads, device)
    for rank in ranks:
        statistics = [rank.array(n) for n in ("running_mean", "running_var", "y")]
        others = rank.arrays("weight", "bias", "residual", "saved")
        before = [rank.out[n].bits for n in ("running_mean", "running_var")]
        rank.call(_core.infer, rank.array("x"), *statistics, **others)
        assert before == [rank.out[n].bits for n in ("running_mean", "running_var")]
        add_gradients(case, rank)
        arrays = [rank.array(n) for n in ("x", "dy", "saved")]
        others = rank.arrays(*GRADIENTS, "weight", "bias")
        rank.call(_core.infer_backward, *arrays, **others, **saved_y(case, rank))
    return ranks


RESULTS = ("y", "saved", "running_mean", "running_var", "num_batches_tracked", *GRADIENTS)


def assert_same_bits(one: Sequence[Rank], other: Sequence[Rank], names: Sequence[str] = RESULTS):
    for d, (a, b) in enumerate(zip(one, other, strict=True)):
        for name in names:
            if name in a.out:
                same = a.out[name].bits == b.out[name].bits
                if name == "saved":  # besides saved[1], which identifies the call
                    rest = [np.delete(r.out[name].values, 1).tobytes() for r in (a, b)]
                    same = rest[0] == rest[1]
                assert same, f"{name} of rank {d} differs"
