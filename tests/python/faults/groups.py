"""The kinds of groups, and layers over them with one interface.

Inputs and results of layers are NumPy arrays of float64, (N, C, H, W).
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from syncnorm import Communicator

if TYPE_CHECKING:
    from typing_extensions import Self

Batch = np.ndarray[Any, Any]
FLAG_SECONDS = 30.0


class FlagFiles:
    """Messages between ranks, as files of a folder: also while their group is broken."""

    def __init__(self, folder: Path, progress: Callable[[], object]) -> None:
        self._folder, self._progress = folder, progress

    def tell(self, name: str, text: str = "") -> None:
        new = self._folder / f".{name}-{threading.get_ident()}-{os.getpid()}"
        new.write_text(text)
        new.rename(self._folder / name)

    def wait(self, name: str) -> str:
        """Wait until a rank has told this; return its text."""
        deadline = time.monotonic() + FLAG_SECONDS
        while time.monotonic() < deadline:
            try:
                return (self._folder / name).read_text()
            except FileNotFoundError:
                self._progress()
                time.sleep(0.005)
        raise AssertionError(f"no rank has told {name!r}")


class Layer(Protocol):
    """A layer of 4 channels unless said otherwise.

    Attributes:
        name: Set by its owner.
        channels, dtype, options: As it was created.
        calls: An item for each forward pass.
    """

    name: str
    channels: int
    dtype: str
    options: dict[str, Any]
    calls: list[Any]

    def use(self, group: Any) -> None: ...

    def forward(self, x: Batch) -> Batch: ...

    def backward(self, dy: Batch, call: int) -> Batch: ...

    def evaluate(self, x: Batch) -> Batch: ...

    def statistics(self) -> list[Batch]: ...

    def wrong_statistics(self) -> Any: ...


class ArrayLayer:
    """A layer of syncnorm.numpy."""

    module = "syncnorm.numpy"

    def __init__(
        self,
        group: Any,
        channels: int = 4,
        dtype: str = "float32",
        layout: str = "first",
        **options: Any,
    ) -> None:
        self.channels, self.dtype, self.layout = channels, dtype, layout
        self.options = options
        self.calls: list[Any] = []
        create = importlib.import_module(self.module).SyncBatchNorm
        axis = 1 if layout == "first" else -1
        self.layer = create(channels, comm=group.handle, axis=axis, **options)

    def use(self, group: Any) -> None:
        self.layer.comm = group.handle

    def forward(self, x: Batch) -> Batch:
        y, saved = self.layer.forward(self._to(x))
        self.calls.append(saved)
        return self._from(y)

    def backward(self, dy: Batch, call: int) -> Batch:
        return self._from(self.layer.backward(self._to(dy), self.calls[call]))

    def evaluate(self, x: Batch) -> Batch:
        self.layer.eval()
        y = self.layer(self._to(x))
        self.layer.train()
        return self._from(y)

    def statistics(self) -> list[Batch]:
        layer = self.layer
        tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
        return [self.read(array) for array in tracked]

    @contextmanager
    def wrong_statistics(self) -> Iterator[None]:
        kept = self.layer.running_var
        self.layer.running_var = self.new(np.ones(self.channels + 1, np.float32))
        yield
        self.layer.running_var = kept

    def new(self, values: Batch) -> Any:
        """Return an array of the library."""
        return values

    def read(self, array: Any) -> Batch:
        return np.array(array)

    def _to(self, values: Batch) -> Any:
        array = values.astype(self.dtype)
        return self.new(array if self.layout == "first" else np.moveaxis(array, 1, -1).copy())

    def _from(self, array: Any) -> Batch:
        values = self.read(array).astype(np.float64)
        return values if self.layout == "first" else np.moveaxis(values, -1, 1)


class TorchLayer:
    """A layer of syncnorm.torch."""

    def __init__(
        self,
        group: Any,
        channels: int = 4,
        dtype: str = "float32",
        layout: str = "first",
        requires_grad: bool = True,
        **options: Any,
    ) -> None:
        import torch

        from syncnorm.torch import SyncBatchNorm

        self.channels, self.dtype = channels, dtype
        self.options = options
        self.calls: list[Any] = []
        self._torch_dtype = getattr(torch, dtype)
        last, first = torch.channels_last, torch.contiguous_format
        self._format = first if layout == "first" else last
        self._requires_grad = requires_grad
        self.layer = SyncBatchNorm(channels, process_group=group.handle, **options)
        self.layer.requires_grad_(requires_grad)

    def use(self, group: Any) -> None:
        self.layer.process_group = group.handle

    def forward(self, x: Batch) -> Batch:
        tensor = self._to(x).requires_grad_(self._requires_grad)
        y = self.layer(tensor)
        self.calls.append((tensor, y))
        return self._from(y)

    def backward(self, dy: Batch, call: int) -> Batch:
        x, y = self.calls[call]
        y.backward(self._to(dy))
        return self._from(x.grad) if self._requires_grad else np.full_like(dy, np.nan)

    def evaluate(self, x: Batch) -> Batch:
        self.layer.eval()
        y = self.layer(self._to(x))
        self.layer.train()
        return self._from(y)

    def statistics(self) -> list[Batch]:
        layer = self.layer
        tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
        return [tensor.numpy().copy() for tensor in tracked]

    @contextmanager
    def wrong_statistics(self) -> Iterator[None]:
        kept = self.layer.running_var
        self.layer.running_var = kept.new_ones(self.channels + 1)
        yield
        self.layer.running_var = kept

    def _to(self, values: Batch) -> Any:
        import torch

        tensor = torch.from_numpy(values).to(self._torch_dtype)
        return tensor.contiguous(memory_format=self._format)

    def _from(self, tensor: Any) -> Batch:
        values: Batch = tensor.detach().double().numpy().copy()
        return values


class CommunicatorGroup:
    """A group with a Communicator as its handle. An exception in the with block aborts it."""

    def __init__(self, handle: Communicator) -> None:
        self.handle = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.handle.closed:
            self.handle.__exit__(*error)

    def close(self) -> None:
        self.handle.close()


class Wanted(NamedTuple):
    """A group that is to be created.

    Attributes:
        name: No other group has it.
        rank: This rank.
        ranks: The ranks of the group.
        timeout: Seconds.
        flags: For messages between these ranks.
    """

    name: str
    rank: int
    ranks: Sequence[int]
    timeout: float
    flags: FlagFiles


class Kind:
    """A kind of group.

    Attributes:
        name: As in the table.
        size: Number of ranks.
        shares_process: The ranks are threads of one process.
        layer: The class of its layers.
        preload: Modules that the ranks import before they are forked.
    """

    name = ""
    size = 3
    shares_process = False
    layer: type[Any] = ArrayLayer
    preload: tuple[str, ...] = ("syncnorm.numpy",)

    def group(self, wanted: Wanted) -> Any:
        """Create a group; each of its ranks calls this."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Prepare a process of ranks."""

    def enter(self, rank: int) -> None:
        """Prepare a thread of a rank."""

    def progress(self) -> None:
        """Do what an application does while it is not in a call of the group."""


class InThreads(Kind):
    """A kind with ranks that are threads: the first one to come creates all handles."""

    shares_process = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[str, list[Communicator]] = {}

    def group(self, wanted: Wanted) -> Any:
        with self._lock:
            if wanted.name not in self._groups:
                self._groups[wanted.name] = self.create(len(wanted.ranks), wanted.timeout)
        handles = self._groups[wanted.name]
        return CommunicatorGroup(handles[wanted.ranks.index(wanted.rank)])

    def create(self, size: int, timeout: float) -> list[Communicator]:
        raise NotImplementedError


class Threads(InThreads):
    name = "threads"

    def create(self, size: int, timeout: float) -> list[Communicator]:
        from syncnorm.comm import thread_group

        return thread_group(size, timeout)


class SharedSum:
    """An all-reduce over threads with a deadline, as an application may write it."""

    def __init__(self, size: int, timeout: float) -> None:
        self._size, self._timeout = size, timeout
        self._condition = threading.Condition()
        self._call = _Call()
        self._failure: Exception | None = None  # of the calls that are not complete, and all later

    def of(self, rank: int) -> Callable[[memoryview, memoryview], None]:
        def sum(src: memoryview, dst: memoryview) -> None:
            with self._condition:
                call = self._call
                call.vectors[rank] = np.array(src)
                if len(call.vectors) == self._size:
                    call.complete()
                    self._call = _Call()
                    self._condition.notify_all()
                elif not self._condition.wait_for(
                    lambda: call.is_complete or self._failure, self._timeout
                ):
                    self._fail(TimeoutError(f"waited {self._timeout} s for the other ranks"))
                if not call.is_complete:
                    assert self._failure is not None
                    raise self._failure
            if call.total is None:
                raise ValueError("the ranks sum vectors of different lengths")
            np.asarray(dst)[:] = call.total

        return sum

    def abort(self, reason: str) -> None:
        with self._condition:
            self._fail(ConnectionAbortedError(f"a rank has aborted the group: {reason}"))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._condition.notify_all()


class _Call:
    """One call of all ranks of a SharedSum."""

    def __init__(self) -> None:
        self.vectors: dict[int, Batch] = {}
        self.is_complete = False
        self.total: Batch | None = None

    def complete(self) -> None:
        vectors = [vector for _, vector in sorted(self.vectors.items())]
        self.is_complete = True
        if len({len(vector) for vector in vectors}) == 1:
            self.total = np.sum(vectors, axis=0)


class Callback(InThreads):
    name = "callback"

    def create(self, size: int, timeout: float) -> list[Communicator]:
        from syncnorm.comm import from_callback

        shared = SharedSum(size, timeout)
        return [
            from_callback(rank, size, shared.of(rank), abort=shared.abort) for rank in range(size)
        ]


class GlooGroup:
    """The default group of torch.distributed."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.handle = dist.group.WORLD

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """An application without our context manager: nothing ends the group."""

    def close(self) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


class Gloo(Kind):
    name = "gloo"
    layer = TorchLayer
    preload = ("syncnorm.torch", "syncnorm.numpy", "torch.distributed")

    def prepare(self) -> None:
        import torch

        torch.set_num_threads(1)

    def group(self, wanted: Wanted) -> Any:
        import torch.distributed as dist

        rank, ranks, key = wanted.rank, wanted.ranks, f"port of {wanted.name}"
        hosts = rank == ranks[0]
        port = 0 if hosts else int(wanted.flags.wait(key))
        store = dist.TCPStore(
            "127.0.0.1",
            port,
            len(ranks),
            hosts,
            timeout=timedelta(seconds=FLAG_SECONDS),
            wait_for_workers=False,
        )
        if hosts:
            wanted.flags.tell(key, str(store.port))
        dist.init_process_group(
            "gloo",
            store=store,
            rank=ranks.index(rank),
            world_size=len(ranks),
            timeout=timedelta(seconds=wanted.timeout),
        )
        return GlooGroup()


class Mpi(Kind):
    name = "mpi"

    def progress(self) -> None:
        """Call MPI: without it the rank would not send the notification of its failure."""
        from mpi4py import MPI

        MPI.COMM_WORLD.Iprobe()

    def group(self, wanted: Wanted) -> Any:
        from mpi4py import MPI

        from syncnorm.comm import from_mpi

        world = MPI.COMM_WORLD
        if len(wanted.ranks) < world.size:
            world = world.Create_group(world.group.Incl(list(wanted.ranks)))
        return CommunicatorGroup(from_mpi(world, timeout=wanted.timeout))


def kind_of(name: str) -> Kind:
    """Return the kind of this name."""
    if name == "nccl":
        from .nccl import Nccl

        return Nccl()
    return {"threads": Threads, "callback": Callback, "gloo": Gloo, "mpi": Mpi}[name]()
