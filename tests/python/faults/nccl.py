"""The kind of NCCL: the CUDA sources on the CPU, over a double of libnccl.

Only for the package of a build with SYNCNORM_SIMT. Rank i is a thread on device i.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from support import simulated_cuda
from support.cupy_on_host import array, cupy_on_host
from syncnorm import DesyncError
from syncnorm.comm import from_nccl_id, nccl_unique_id
from syncnorm.cupy import to_numpy
from syncnorm.cupy.library import LIBRARY

from .groups import ArrayLayer, Batch, CommunicatorGroup, InThreads, Wanted

WAIT_SECONDS = 30.0


class CupyLayer(ArrayLayer):
    """A layer of syncnorm.cupy. Its calls wait for the device."""

    module = "syncnorm.cupy"

    def __init__(self, group: Any, **options: Any) -> None:
        super().__init__(group, **options)
        self.group = group

    def use(self, group: Any) -> None:
        super().use(group)
        self.group = group
        with suppress(DesyncError):  # the end of an aborted sum
            LIBRARY.status_word(self.layer.running_mean)

    def forward(self, x: Batch) -> Batch:
        y, saved = self.layer.forward(self._to(x))
        self.calls.append(saved)
        return self._finish(y)

    def backward(self, dy: Batch, call: int) -> Batch:
        return self._finish(self.layer.backward(self._to(dy), self.calls[call]))

    def _finish(self, result: Any) -> Batch:
        """Wait for the result; raise what the next call of the layer reports if it is NaN."""
        self.group.handle.wait(timeout=WAIT_SECONDS)
        values = self._from(result)
        if np.isnan(values).all():
            self.layer.forward(result)
        return values

    def new(self, values: Batch) -> Any:
        return array(values, values.dtype)

    def read(self, array: Any) -> Batch:
        values: Batch = to_numpy(array)
        return values


class Nccl(InThreads):
    name = "nccl"
    size = 2
    layer = CupyLayer
    preload = ("syncnorm.cupy", "syncnorm.numpy")

    def __init__(self) -> None:
        super().__init__()
        self._ids: dict[str, bytes] = {}
        self._stack = ExitStack()

    def prepare(self) -> None:
        self._stack.enter_context(cupy_on_host())

    def enter(self, rank: int) -> None:
        simulated_cuda.use_device(rank)

    def group(self, wanted: Wanted) -> CommunicatorGroup:
        with self._lock:
            if wanted.name not in self._ids:
                self._ids[wanted.name] = nccl_unique_id()
        comm = from_nccl_id(
            self._ids[wanted.name],
            wanted.ranks.index(wanted.rank),
            len(wanted.ranks),
            wanted.rank,
            init_timeout=WAIT_SECONDS,
            sum_timeout=wanted.timeout,
        )
        return CommunicatorGroup(comm)
