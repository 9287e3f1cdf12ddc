"""The conventions of other systems as options of the arrays' layer: docs/arrays.md names them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from thread_ranks import run_ranks

from syncnorm import numpy as arrays
from syncnorm.torch import encoding, megengine, mmcv, mxnet, paddle

CHANNELS = 5
SAMPLES = [4, 1, 2]

# From a system's layer for a group, and its running statistics, to the options that do the same.
SYSTEMS: dict[str, tuple[Any, tuple[str, str], dict[str, Any]]] = {
    "mxnet": (
        lambda group: mxnet.SyncBatchNorm(CHANNELS, process_group=group, dtype=torch.float64),
        ("running_mean", "running_var"),
        {"momentum": 1 - 0.9, "weighting": "equal", "variance_factor": "biased"},
    ),
    "paddle": (
        lambda group: paddle.SyncBatchNorm(CHANNELS, process_group=group, dtype=torch.float64),
        ("_mean", "_variance"),
        {"momentum": 1 - 0.9, "variance_factor": "biased"},
    ),
    "encoding": (
        lambda group: encoding.BatchNorm1d(CHANNELS, process_group=group, dtype=torch.float64),
        ("running_mean", "running_var"),
        {},
    ),
    "mmcv": (
        lambda group: mmcv.SyncBatchNorm(CHANNELS, group=group, dtype=torch.float64),
        ("running_mean", "running_var"),
        {"weighting": "equal", "variance_factor": "unbiased_local", "grad_reduction": "mean"},
    ),
    "mmcv, N": (
        lambda group: mmcv.SyncBatchNorm(
            CHANNELS, group=group, stats_mode="N", dtype=torch.float64
        ),
        ("running_mean", "running_var"),
        {"weighting": "batch", "variance_factor": "unbiased_local", "grad_reduction": "mean"},
    ),
    "megengine": (
        lambda group: megengine.SyncBatchNorm(CHANNELS, group=group, dtype=torch.float64),
        ("running_mean", "running_var"),
        {"momentum": 1 - 0.9},
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_options_do_what_the_module_does(system: str) -> None:
    make, names, options = SYSTEMS[system]
    random = np.random.default_rng(3)
    weight = random.uniform(0.5, 1.5, CHANNELS)
    xs = [random.normal(2.0, 1.0, (n, CHANNELS, 3)) for n in SAMPLES]
    dys = [random.normal(size=x.shape) for x in xs]

    def by_module(rank: int, group: Any) -> list[np.ndarray]:
        layer = make(group)
        scale, shift = layer.parameters()
        with torch.no_grad():
            scale.copy_(torch.from_numpy(weight).view_as(scale))
        x = torch.from_numpy(xs[rank]).requires_grad_()
        y = layer(x)
        y.backward(torch.from_numpy(dys[rank]))
        running = [getattr(layer, name).flatten() for name in names]
        tensors = (y, x.grad, scale.grad.flatten(), shift.grad.flatten(), *running)
        return [tensor.detach().numpy() for tensor in tensors]

    def by_options(rank: int, group: Any) -> list[np.ndarray]:
        layer = arrays.SyncBatchNorm(CHANNELS, comm=group, dtype="float64", **options)
        layer.weight[...] = weight
        y = layer(xs[rank])
        dx = layer.backward(dys[rank])
        return [y, dx, layer.weight_grad, layer.bias_grad, layer.running_mean, layer.running_var]

    ranks = len(SAMPLES)
    for got, expected in zip(
        run_ranks(ranks, by_options), run_ranks(ranks, by_module), strict=True
    ):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-14)
