"""megengine's function and its layer where it is frozen or does not track, by its formulas."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from megengine_formulas import Function
from ported_layers import SYSTEMS, dialect
from ported_steps import CHANNELS, SIZES, Dialect, check_training
from thread_ranks import run_ranks
from torch import Tensor, nn

from syncnorm.torch.megengine import SyncBatchNorm, sync_batch_norm


class OfTheFunction(nn.Module):
    """sync_batch_norm with vectors of this shape."""

    def __init__(self, group: Any, dtype: torch.dtype, shape: tuple[int, ...], **call: Any) -> None:
        super().__init__()
        self.call = {"training": True, "group": group, **call}
        self.weight, self.bias = (nn.Parameter(torch.empty(shape, dtype=dtype)) for _ in range(2))
        self.running_mean, self.running_var = torch.empty(2, *shape, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        vectors = [self.running_mean, self.running_var, self.weight, self.bias]
        return sync_batch_norm(x, *vectors, **self.call)


@pytest.mark.parametrize("shape", [(CHANNELS,), (1, CHANNELS, 1, 1)])
@pytest.mark.parametrize("eps_mode", ["additive", "ADDITIVE", "max", "MAX", "Max"])
def test_steps_of_the_function_are_those_of_the_formulas(eps_mode: str, shape: tuple) -> None:
    """eps = 2.3 is above the variance of some channels, and below that of others."""
    options = {"eps": 2.3, "momentum": 0.7}
    given = Dialect(
        SYSTEMS["megengine"].names,
        partial(OfTheFunction, shape=shape, eps_mode=eps_mode, **options),
        partial(Function, eps_mode=eps_mode.lower(), **options),
    )
    check_training(given, SIZES["unequal"][:3])


@pytest.mark.parametrize("tail", [(), (7,), (3, 2)])
def test_a_frozen_layer_is_that_of_the_formulas(tail: tuple[int, ...]) -> None:
    given = dialect("megengine", formulas={"freeze": True}, freeze=True)
    check_training(replace(given, frozen=True), SIZES["one empty"][:3], tail=tail)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_without_running_statistics_ranks_talk_in_evaluation_too(
    affine: bool, training: bool
) -> None:
    xs = [torch.randn(n, 3, 2, dtype=torch.float64) for n in (2, 4)]

    def body(rank: int, communicator: Any) -> list[Tensor]:
        layer = SyncBatchNorm(
            3, affine=affine, track_running_stats=False, group=communicator, dtype=torch.float64
        )
        assert list(layer.state_dict()) == (["weight", "bias"] if affine else [])
        x = xs[rank].clone().requires_grad_()
        y = layer.train(training)(x)
        y.pow(3).sum().backward()
        return [y.detach(), x.grad]

    joined = torch.cat(xs).requires_grad_()
    expected = nn.functional.batch_norm(joined, None, None, training=True)
    expected.pow(3).sum().backward()
    got = [torch.cat(both) for both in zip(*run_ranks(2, body), strict=True)]
    torch.testing.assert_close(got, [expected.detach(), joined.grad], rtol=1e-12, atol=1e-12)
