"""What a run of an adapter gave on one rank, in the form that support.compare reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from support.buffers import Buffer
from support.dtypes import STORAGE


@dataclass
class Outcome:
    out: dict[str, Buffer] = field(default_factory=dict)

    def keep(self, name: str, storage: np.ndarray | None, dtype: str) -> None:
        """Keep a result, given as values of the dtype's storage type."""
        if storage is not None:
            buffer = Buffer(storage.shape, dtype)
            buffer.storage[...] = storage.view(STORAGE[dtype])
            self.out[name] = buffer
