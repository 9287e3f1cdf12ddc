"""One rank: runs a fault, checks every number, then trains on in a new group."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from syncnorm.numpy import SyncBatchNorm

from .groups import Batch, FlagFiles, Kind, Layer, Wanted

if TYPE_CHECKING:
    from .scenarios import Fault, Promise

PATIENT = 20.0  # seconds: the timeout of groups that are not meant to reach it
SAMPLES = 3  # of rank 0 in a step; each following rank has one more


class WrongNumbers(AssertionError):
    """A call returned without an error, and its results are not those of the joined batch."""


class StatisticsWritten(AssertionError):
    """A forward pass raised after it had written running statistics."""


class Rank:
    """What a fault may do on a rank.

    Attributes:
        faulty: This rank does the wrong thing.
        is_last: This rank is the last one.
        group: The group under test.
        layers: Two layers over it, which have been trained for one step.
        start: The time of the fault, of time.monotonic().
    """

    def __init__(
        self, kind: Kind, index: int, fault: Fault, promise: Promise, folder: Path
    ) -> None:
        self._kind, self._index, self._promise = kind, index, promise
        self._ranks = list(range(kind.size))
        self._phase = "before"
        self._name = folder.name  # different for every run of a fault
        self._flags = FlagFiles(folder, kind.progress)
        self._passes: dict[str, list[tuple[str, SyncBatchNorm, Any]]] = {}
        self._attempts: list[str] = []
        self._faulty_rank = fault.faulty
        self.faulty = index == fault.faulty
        self.is_last = index == kind.size - 1
        kind.enter(index)
        self.group = self._new_group(promise.timeout)
        self.layers: list[Layer] = [self.new_layer(), self.new_layer()]
        self.start = time.monotonic()

    def run(self, fault: Fault) -> dict[str, Any]:
        """Return a report: the outcome, its message, its time, and what came afterwards."""
        self._train()
        self._begin("fault")
        self.meet("trained")
        self.start = time.monotonic()
        report: dict[str, Any] = {}
        try:
            with self.group:
                fault.run(self)
            outcome, message = "completes", ""
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - reported, whatever it is
            outcome, message = type(error).__name__, str(error)
        report["seconds"] = time.monotonic() - self.start
        report["outcome"] = ", then ".join([*self._attempts, outcome])
        report["message"] = message
        try:
            self._train_on()
            report["after"] = "trains on"
        except BaseException as error:  # noqa: BLE001 - reported, whatever it is
            report["after"] = f"{type(error).__name__}: {error}"
        return report

    # ------------------------------------------------------------------------------------ calls

    def new_layer(self, **options: Any) -> Layer:
        layer: Layer = self._kind.layer(self.group, **options)
        layer.name = f"layer {len(self._passes)}"
        self._passes[layer.name] = []
        return layer

    def batch(self, step: str, channels: int, rank: int | None = None) -> Batch:
        """Return random values that every dtype can represent."""
        rank = self._index if rank is None else rank
        seed = zlib.crc32(f"{step} {rank}".encode())
        generator = np.random.default_rng(seed)
        return generator.integers(-16, 17, (SAMPLES + rank, channels, 2, 3)) / 8.0

    def forward(self, layer: Layer) -> None:
        """Run a forward pass over the next batch of the layer, and check all results."""
        step, before = self._next_step(layer), layer.statistics()
        try:
            y = layer.forward(self.batch(step, layer.channels))
        except BaseException as error:
            if not all(map(np.array_equal, layer.statistics(), before)):
                raise StatisticsWritten(f"before {error!r}") from error
            raise
        one = SyncBatchNorm(layer.channels, dtype="float64", **layer.options)
        tracked = one.running_mean, one.running_var, one.num_batches_tracked
        for array, values in zip(tracked, before, strict=True):
            array[...] = values
        joined, saved = one.forward(self._joined(step, layer.channels))
        self._passes[layer.name].append((step, one, saved))
        self._compare(layer, "y", y, self._own_part(joined))
        for found, expected in zip(layer.statistics(), tracked, strict=True):
            self._compare(layer, "running statistics", found, expected)

    def backward(self, layer: Layer, number: int = -1) -> None:
        """Run the backward pass of one of the layer's forward passes, and check dx."""
        step, one, saved = self._passes[layer.name][number]
        dx = layer.backward(self.batch(f"dy {step}", layer.channels), number)
        joined = one.backward(self._joined(f"dy {step}", layer.channels), saved)
        if not np.isnan(dx).all():  # this rank wanted none
            self._compare(layer, "dx", dx, self._own_part(joined))

    def evaluate(self, layer: Layer) -> None:
        y = layer.evaluate(self.batch(self._next_step(layer), layer.channels))
        assert np.isfinite(y).all()

    def attempt(self, call: Callable[[], object]) -> None:
        """Call, and note the error."""
        try:
            call()
            self._attempts.append("completes")
        except Exception as error:  # noqa: BLE001 - reported, whatever it is
            self._attempts.append(type(error).__name__)

    def attempt_in_child(self, call: Callable[[], object]) -> None:
        """Call in a forked child, and note the error, or that the child waits in vain."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                self.attempt(call)
                os.write(write, self._attempts[-1].encode())
            finally:
                os._exit(0)
        os.close(write)
        ready, _, _ = select.select([read], [], [], 5.0)
        outcome = os.read(read, 1000).decode() if ready else "hangs"
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self._attempts.append(outcome)

    @contextmanager
    def in_thread(self, call: Callable[[], object]) -> Iterator[None]:
        """Call in a daemon thread; raise its error at the end of the block."""
        errors: list[BaseException] = []

        def run() -> None:
            self._kind.enter(self._index)
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join()
        for error in errors:
            raise error

    # ------------------------------------------------------------------------- times and signals

    def soon(self, act: Callable[[], object]) -> None:
        """Act after 0.4 s, in a thread. This is the time of the fault."""

        def run() -> None:
            self.start = time.monotonic()
            act()

        timer = threading.Timer(0.4, run)
        timer.daemon = True
        timer.start()

    def pause(self, seconds: float) -> None:
        """Stop this process, or let this thread sleep if it shares the process."""
        if self._kind.shares_process:
            time.sleep(seconds)
            return
        subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)

    def tell(self, name: str) -> None:
        self._flags.tell(name)

    def wait(self, name: str) -> None:
        """Wait until a rank has told this. This is the time of the fault."""
        self._flags.wait(name)
        self.start = time.monotonic()

    def meet(self, name: str, ranks: Sequence[int] | None = None) -> None:
        """Wait until all ranks have come here."""
        self.tell(f"{name} {self._index}")
        for rank in self._ranks if ranks is None else ranks:
            self._flags.wait(f"{name} {rank}")

    def wait_for_the_others(self) -> None:
        """Wait until the other ranks have their errors."""
        for rank in self._ranks:
            if rank != self._index:
                self._flags.wait(f"over {rank}")

    # -------------------------------------------------------------------------------- afterwards

    def _train_on(self) -> None:
        """Train both layers in a new group of the ranks that are left."""
        self.tell(f"over {self._index}")
        if self._promise.after == "none" or (self.faulty and self._promise.after != "all ranks"):
            return
        if self._promise.after != "all ranks":
            self._ranks.remove(self._faulty_rank)
        self.group.close()
        self.meet("closed")
        self._begin("after")
        self.group = self._new_group(PATIENT)
        for layer in self.layers:
            layer.use(self.group)
        self._train()
        self.meet("trained on")
        self.group.close()

    def _begin(self, phase: str) -> None:
        self._phase = phase
        for layer in self.layers:
            self._passes[layer.name].clear()
            layer.calls.clear()

    def _train(self) -> None:
        for layer in self.layers:
            self.forward(layer)
        for layer in reversed(self.layers):
            self.backward(layer)

    def _new_group(self, timeout: float) -> Any:
        name = f"group {self._phase} {self._name}"
        return self._kind.group(Wanted(name, self._index, self._ranks, timeout, self._flags))

    # ----------------------------------------------------------------------------------- numbers

    def _next_step(self, layer: Layer) -> str:
        return f"{self._phase}, {layer.name}, call {len(self._passes[layer.name])}"

    def _joined(self, step: str, channels: int) -> Batch:
        return np.concatenate([self.batch(step, channels, rank) for rank in self._ranks])

    def _own_part(self, joined: Batch) -> Batch:
        start = sum(SAMPLES + rank for rank in self._ranks if rank < self._index)
        return joined[start : start + SAMPLES + self._index]

    def _compare(self, layer: Layer, name: str, found: Batch, expected: Batch) -> None:
        tolerance = 1e-2 if layer.dtype == "float16" else 1e-4
        if not np.allclose(found, expected, rtol=tolerance, atol=tolerance):
            worst = np.abs(found - expected).max()
            raise WrongNumbers(f"{name} of {layer.name} differs by {worst:.3g}")
