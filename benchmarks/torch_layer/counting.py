"""What a call dispatches, which of it works on the device, and the memory that stays with it."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_COLLECTIVES = ("c10d", "_c10d_functional")
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty"}


@dataclasses.dataclass
class Counts:
    """Of one call.

    launches: operations that have something to do on a device, by their kind; some launch more than
    one kernel. waits: operations for which the host must wait for the device.
    """

    operations: list[str] = dataclasses.field(default_factory=list)
    launches: int = 0
    collectives: int = 0
    waits: int = 0


class Counter(TorchDispatchMode):
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
        self.counts.waits += _waits(name, args)
        return func(*args, **(kwargs or {}))


def _is_view(func: Any) -> bool:
    """Whether the result shares the memory of an argument and nothing is written."""
    returned = [result.alias_info for result in func._schema.returns]  # noqa: SLF001
    return any(alias is not None and not alias.is_write for alias in returned)


def _waits(name: str, args: tuple[Any, ...]) -> bool:
    """Reading a number, and indexing by a mask, whose result has as many rows as it is true."""
    if name == "index":
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return name in {"_local_scalar_dense", "nonzero"}


class LiveMemory(TorchDispatchMode):
    """The bytes of those tensors made while it is active that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {_storage(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage(leaf) not in before:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001 - the memory's identity, whoever refers to it
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001


@contextmanager
def saved_bytes(found: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls found with each tensor that is saved for backward."""

    def pack(tensor: Tensor) -> Tensor:
        found(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
