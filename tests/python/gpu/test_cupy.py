"""CuPy arrays: through _core.Array, and as torch tensors of the same memory through DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layer_reference import exact_layer

from syncbn import Options, _core
from syncbn.torch import SyncBatchNorm

cupy = pytest.importorskip("cupy", reason="CuPy is not installed on this machine")


def view(array: Any) -> _core.Array:
    strides = [stride // array.itemsize for stride in array.strides]
    return _core.Array(
        array.data.ptr, array.shape, strides, array.dtype.name, "cuda", array.device.id, owner=array
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_of_cupy_on_a_stream_of_cupy(dtype: str) -> None:
    random = np.random.default_rng(0)
    host_x, host_dy = (random.standard_normal((6, 5, 4, 7)).astype(dtype) for _ in range(2))
    options = Options()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x, dy = cupy.asarray(host_x), cupy.asarray(host_dy)
        y, dx = cupy.empty_like(x), cupy.empty_like(x)
        sizes = _core.sizes(view(x), options)
        saved = cupy.empty(sizes.saved, "float64")
        launch = {
            "workspace": view(cupy.empty(sizes.workspace, "uint8")),
            "control": view(cupy.zeros(_core.CONTROL_SIZE, "uint8")),
            "stream": stream.ptr,
        }
        _core.forward(options, None, view(x), view(y), saved=view(saved), **launch)
        _core.backward(options, None, view(x), view(dy), view(saved), dx=view(dx), **launch)
        got = [cupy.asnumpy(array) for array in (y, dx)]
    exact = exact_layer(
        torch.from_numpy(host_x), torch.from_numpy(host_dy), torch.ones(5), torch.zeros(5)
    )
    tolerance = 16 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(got[0], exact.y, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got[1], exact.dx, rtol=tolerance, atol=4 * tolerance)


def test_cupy_s_memory_through_dlpack() -> None:
    x = cupy.random.standard_normal((8, 5, 30), dtype="float32")
    y = SyncBatchNorm(5, device="cuda")(torch.from_dlpack(x))
    mean = cupy.from_dlpack(y.detach()).mean(axis=(0, 2))
    cupy.testing.assert_allclose(mean, 0, atol=1e-5)
