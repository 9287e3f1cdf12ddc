"""syncnorm.numpy for support.adapter_driver."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from support.adapter_driver import Adapter
from support.buffers import Buffer
from support.dtypes import STORAGE
from syncnorm import numpy as functions


def dtype_of(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else STORAGE[name])


def over(buffer: Buffer) -> np.ndarray:
    """The buffer's own memory."""
    return buffer.storage.view(dtype_of(buffer.dtype))


NUMPY = Adapter(functions, over, np.asarray)
