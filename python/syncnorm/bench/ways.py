"""The ways into the library, and torch's layer, each as two calls on one tiny array.

All train: they use the statistics of the batch and update running statistics. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import syncnorm.numpy
import syncnorm.torch
from syncnorm import Options, _core
from syncnorm.numpy.library import LIBRARY, NumpyArray

from .cases import TINY_SHAPE
from .measure import Call

COMPUTATION = "core, all views ready"  # what is not overhead
CHANNELS = TINY_SHAPE[1]


class Way(NamedTuple):
    name: str
    forward: Call
    both: Callable[[], Any]  # forward+backward; returns dx


def all_ways() -> list[Way]:
    """In the order of the table. JAX's is there where JAX is installed."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    x, dy = (random.standard_normal(TINY_SHAPE, dtype=np.float32) for _ in range(2))
    torch_ways = (
        torch_layer("torch.nn.BatchNorm2d", nn.BatchNorm2d(CHANNELS), x, dy),
        torch_layer("syncnorm.torch, layer", syncnorm.torch.SyncBatchNorm(CHANNELS), x, dy),
    )
    return [core(x, dy), functions(x, dy), layer(x, dy), *torch_ways, *jax_function(x, dy)]


def core(x: NumpyArray, dy: NumpyArray) -> Way:
    options = Options()
    dx = np.empty_like(x)
    x_view, y, dy_view, dx_view = (_view(array) for array in (x, np.empty_like(x), dy, dx))
    sizes = _core.sizes(x_view, options)
    saved = _view(np.empty(sizes.saved))
    weight, bias, mean, var, batches = (_view(array) for array in _parameters())
    dweight, dbias, *_ = (_view(array) for array in _parameters())
    where = LIBRARY.placement(x, sizes.workspace, 1, None)
    affine: dict[str, Any] = {"weight": weight, "bias": bias, **where}
    statistics = {"running_mean": mean, "running_var": var, "num_batches_tracked": batches}
    output: dict[str, Any] = {"saved": saved, **statistics}
    gradients: dict[str, Any] = {"dx": dx_view, "dweight": dweight, "dbias": dbias}

    def forward() -> None:
        _core.forward(options, None, x_view, y, **output, **affine)

    def both() -> NumpyArray:
        forward()
        _core.backward(options, None, x_view, dy_view, saved, **gradients, **affine)
        return dx

    return Way(COMPUTATION, forward, both)


def functions(x: NumpyArray, dy: NumpyArray) -> Way:
    *arrays, batches = _parameters()

    def forward() -> tuple[NumpyArray, syncnorm.numpy.Saved[NumpyArray]]:
        return syncnorm.numpy.forward(x, *arrays, num_batches_tracked=batches, num_threads=1)

    def both() -> NumpyArray:
        _, saved = forward()
        return syncnorm.numpy.backward(dy, saved).dx

    return Way("syncnorm.numpy, functions", forward, both)


def layer(x: NumpyArray, dy: NumpyArray) -> Way:
    made = syncnorm.numpy.SyncBatchNorm(CHANNELS, num_threads=1)

    def both() -> Any:
        made.zero_grad()
        made(x)
        return made.backward(dy)

    return Way("syncnorm.numpy, layer", lambda: made.forward(x), both)


def torch_layer(name: str, made: nn.Module, x: NumpyArray, dy: NumpyArray) -> Way:
    leaf, gradient = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)
    leaves = (leaf, *made.parameters())
    return Way(
        name,
        lambda: made(leaf),
        lambda: torch.autograd.grad(made(leaf), leaves, gradient)[0],
    )


def jax_function(x: NumpyArray, dy: NumpyArray) -> Iterator[Way]:
    """Compiled; XLA decides on the threads."""
    if find_spec("jax") is None:
        return
    import jax

    import syncnorm.jax

    parameters = [jax.numpy.asarray(array) for array in (x, *_parameters()[:2])]
    arguments = (syncnorm.jax.RunningStatistics.initial(CHANNELS), *parameters)
    gradient = jax.numpy.asarray(dy)

    def normalize(running: Any, x: Any, weight: Any, bias: Any) -> Any:
        return syncnorm.jax.batch_norm(x, weight, bias, running, axis=1)

    def differentiate(running: Any, *inputs: Any) -> Any:
        _, pull_back, updated = jax.vjp(partial(normalize, running), *inputs, has_aux=True)
        return *pull_back(gradient), updated

    forward, both = jax.jit(normalize), jax.jit(differentiate)
    wait: Callable[[Any], Any] = jax.block_until_ready
    yield Way(
        "syncnorm.jax, compiled",
        lambda: wait(forward(*arguments)),
        lambda: wait(both(*arguments))[0],
    )


def _parameters() -> list[NumpyArray]:
    """weight, bias, running mean and variance, number of batches."""
    weight, var = (np.ones(CHANNELS, np.float32) for _ in range(2))
    bias, mean = (np.zeros(CHANNELS, np.float32) for _ in range(2))
    return [weight, bias, mean, var, np.zeros((), np.int64)]


def _view(array: NumpyArray) -> _core.Array:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return LIBRARY.view(array, array.shape, strides, "array")
