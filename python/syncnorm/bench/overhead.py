"""Measure the overhead of one call: every API of syncnorm and two torch baselines on a tiny array.

All normalization cases train: they use batch statistics and update running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import syncnorm.numpy
import syncnorm.torch
from syncnorm import Options, _core
from syncnorm.numpy.library import LIBRARY, NumpyArray

from .cases import TINY_SHAPE
from .timing import Call, Rounds, time_short_calls

CORE = "core, all views ready"  # the computation itself, without overhead
BASELINE = "torch.nn.BatchNorm2d"
EMPTY_FUNCTION = "empty autograd Function"
_CHANNELS = TINY_SHAPE[1]


class OverheadCase(NamedTuple):
    """One API, as two calls; `forward_backward` returns dx."""

    name: str
    forward: Call
    forward_backward: Callable[[], Any]


def measure_overhead(repeat: int) -> dict[str, Rounds]:
    """Time one call of every case on one thread, all cases in the same rounds.

    Args:
        repeat: Number of rounds, as for `time_short_calls`.

    Returns:
        The rounds of "forward" and of "forward+backward", by the name of the case.
    """
    cases = overhead_cases()
    forward = {case.name: case.forward for case in cases}
    forward_backward = {case.name: case.forward_backward for case in cases}
    return {
        "forward": time_short_calls(forward, repeat),
        "forward+backward": time_short_calls(forward_backward, repeat),
    }


def overhead_cases() -> list[OverheadCase]:
    """Return all cases in the order of the table; JAX's only if JAX is installed."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    x, dy = (random.standard_normal(TINY_SHAPE, dtype=np.float32) for _ in range(2))
    return [
        _core_case(x, dy),
        _numpy_functions(x, dy),
        _numpy_layer(x, dy),
        _empty_function(x, dy),
        _torch_layer(BASELINE, nn.BatchNorm2d(_CHANNELS), x, dy),
        _torch_layer("syncnorm.torch, layer", syncnorm.torch.SyncBatchNorm(_CHANNELS), x, dy),
        *_jax_case(x, dy),
    ]


def _core_case(x: NumpyArray, dy: NumpyArray) -> OverheadCase:
    options = Options()
    dx = np.empty_like(x)
    x_view, y, dy_view, dx_view = (_view(array) for array in (x, np.empty_like(x), dy, dx))
    sizes = _core.sizes(x_view, options)
    saved = _view(np.empty(sizes.saved))
    weight, bias, mean, var, batches = (_view(array) for array in _parameters())
    dweight, dbias, *_ = (_view(array) for array in _parameters())
    placement = LIBRARY.placement(x, sizes.workspace, 1, None)
    affine: dict[str, Any] = {"weight": weight, "bias": bias, **placement}
    statistics = {"running_mean": mean, "running_var": var, "num_batches_tracked": batches}
    output: dict[str, Any] = {"saved": saved, **statistics}
    gradients: dict[str, Any] = {"dx": dx_view, "dweight": dweight, "dbias": dbias}

    def forward() -> None:
        _core.forward(options, None, x_view, y, **output, **affine)

    def forward_backward() -> NumpyArray:
        forward()
        _core.backward(options, None, x_view, dy_view, saved, **gradients, **affine)
        return dx

    return OverheadCase(CORE, forward, forward_backward)


def _numpy_functions(x: NumpyArray, dy: NumpyArray) -> OverheadCase:
    *arrays, batches = _parameters()

    def forward() -> tuple[NumpyArray, syncnorm.numpy.Saved[NumpyArray]]:
        return syncnorm.numpy.forward(x, *arrays, num_batches_tracked=batches, num_threads=1)

    def forward_backward() -> NumpyArray:
        _, saved = forward()
        return syncnorm.numpy.backward(dy, saved).dx

    return OverheadCase("syncnorm.numpy, functions", forward, forward_backward)


def _numpy_layer(x: NumpyArray, dy: NumpyArray) -> OverheadCase:
    layer = syncnorm.numpy.SyncBatchNorm(_CHANNELS, num_threads=1)

    def forward_backward() -> Any:
        layer.zero_grad()
        layer(x)
        return layer.backward(dy)

    return OverheadCase("syncnorm.numpy, layer", lambda: layer.forward(x), forward_backward)


class _EmptyFunction(torch.autograd.Function):
    """Saves its inputs and allocates its outputs; computes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def _empty_function(x: NumpyArray, dy: NumpyArray) -> OverheadCase:
    leaves = [torch.from_numpy(array).requires_grad_() for array in (x, *_parameters()[:2])]
    apply: Callable[..., Any] = _EmptyFunction.apply
    return _autograd_case(EMPTY_FUNCTION, lambda: apply(*leaves), leaves, dy)


def _torch_layer(name: str, layer: nn.Module, x: NumpyArray, dy: NumpyArray) -> OverheadCase:
    leaf = torch.from_numpy(x).requires_grad_()
    return _autograd_case(name, lambda: layer(leaf), [leaf, *layer.parameters()], dy)


def _autograd_case(
    name: str, forward: Callable[[], Any], leaves: list[Tensor], dy: NumpyArray
) -> OverheadCase:
    gradient = torch.from_numpy(dy)
    return OverheadCase(name, forward, lambda: torch.autograd.grad(forward(), leaves, gradient)[0])


def _jax_case(x: NumpyArray, dy: NumpyArray) -> Iterator[OverheadCase]:
    """Yield the compiled JAX functions if JAX is installed; XLA chooses the number of threads."""
    if find_spec("jax") is None:
        return
    import jax

    import syncnorm.jax

    parameters = [jax.numpy.asarray(array) for array in (x, *_parameters()[:2])]
    arguments = (syncnorm.jax.RunningStatistics.initial(_CHANNELS), *parameters)
    gradient = jax.numpy.asarray(dy)

    def normalize(running: Any, x: Any, weight: Any, bias: Any) -> Any:
        return syncnorm.jax.batch_norm(x, weight, bias, running, axis=1)

    def differentiate(running: Any, *inputs: Any) -> Any:
        _, vjp, updated = jax.vjp(partial(normalize, running), *inputs, has_aux=True)
        return *vjp(gradient), updated

    forward, forward_backward = jax.jit(normalize), jax.jit(differentiate)
    wait: Callable[[Any], Any] = jax.block_until_ready
    yield OverheadCase(
        "syncnorm.jax, compiled",
        lambda: wait(forward(*arguments)),
        lambda: wait(forward_backward(*arguments))[0],
    )


def _parameters() -> list[NumpyArray]:
    """Return weight, bias, running mean, running variance and the number of batches."""
    weight, var = (np.ones(_CHANNELS, np.float32) for _ in range(2))
    bias, mean = (np.zeros(_CHANNELS, np.float32) for _ in range(2))
    return [weight, bias, mean, var, np.zeros((), np.int64)]


def _view(array: NumpyArray) -> _core.Array:
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return LIBRARY.view(array, array.shape, strides, "array")
