"""syncnorm.cupy on the device for support.adapter_driver: any rank will do on one device."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from support.adapter_driver import Adapter
from support.buffers import Buffer
from syncnorm import cupy as bn


def on_device(buffer: Buffer) -> cupy.ndarray:
    """A copy that lies as the buffer does."""
    host = buffer.storage
    if buffer.dtype == "bfloat16":
        import ml_dtypes

        host = host.view(ml_dtypes.bfloat16)
    order = sorted(range(host.ndim), key=lambda axis: -buffer.strides[axis])
    lying = cupy.asarray(np.ascontiguousarray(host.transpose(order)))
    return lying.transpose(np.argsort(order).tolist())


ADAPTER = Adapter(bn, on_device, cupy.asnumpy)


def bits(*results: Any) -> list[bytes]:
    return [cupy.asnumpy(result).tobytes() for result in results]


def random(shape: tuple[int, ...], seed: int = 0, dtype: Any = "float32") -> cupy.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    return cupy.asarray(values.astype(dtype))
