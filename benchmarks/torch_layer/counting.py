"""Count the operations that a call dispatches, and the memory that its tensors hold."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COLLECTIVES = ("c10d", "_c10d_functional")
# zeros: the frame of a wire on the CPU; on a device a wire is allocated uninitialized.
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "zeros"}


@dataclasses.dataclass
class Counts:
    """The counts of one call.

    operations: names in order. launches: operations that launch kernels on a device, judged by
    their kind; some launch more than one. synchronizations: operations that make the host wait for
    the device.
    """

    operations: list[str] = dataclasses.field(default_factory=list)
    launches: int = 0
    collectives: int = 0
    synchronizations: int = 0


class OperationCounter(TorchDispatchMode):
    """Counts the operations that reach the dispatcher while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.counts.operations.append(name)
        if func.namespace in _COLLECTIVES:
            self.counts.collectives += 1
        elif not (_is_view(func) or name in _ALLOCATIONS):
            self.counts.launches += 1
        self.counts.synchronizations += _synchronizes(name, args)
        return func(*args, **(kwargs or {}))


def _is_view(func: Any) -> bool:
    """Return whether the result aliases an argument that the operation does not write."""
    returned = [result.alias_info for result in func._schema.returns]  # noqa: SLF001
    return any(alias is not None and not alias.is_write for alias in returned)


def _synchronizes(name: str, args: tuple[Any, ...]) -> bool:
    """Return whether the host needs a value from the device: a number, or a mask's result size."""
    if name == "index":
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return name in {"_local_scalar_dense", "nonzero"}


class LiveMemory(TorchDispatchMode):
    """Tracks the bytes of live tensors that were created while it is active: `now` and `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {_storage_id(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage_id(leaf) not in before:
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        key, storage = _storage_id(tensor), tensor.untyped_storage()
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _storage_id(tensor: Tensor) -> int:
    """Return the identity of the C++ storage, which all tensors that share it have in common."""
    return tensor.untyped_storage()._cdata  # noqa: SLF001


@contextmanager
def record_saved_tensors() -> Iterator[list[Tensor]]:
    """Yield a list to which every tensor that autograd saves for backward is appended."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
