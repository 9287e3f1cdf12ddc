"""paddle's layer on its documented example, and in evaluation against its formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closeness import assert_rounded
from paddle_formulas import Layer

from support.vectors import PADDLE, printed_like
from syncnorm.torch.paddle import SyncBatchNorm

NAMES = ("weight", "bias", "_mean", "_variance")


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_the_example_of_paddle_s_documentation(data_format: str) -> None:
    layer = SyncBatchNorm(2, data_format=data_format, dtype=torch.float64)
    channels = 1 if data_format == "NCHW" else 3
    y = layer(torch.from_numpy(PADDLE.x).movedim(1, channels).contiguous()).movedim(channels, 1)
    printed = np.array(PADDLE.y.split(), float)
    # It was printed from float32 arithmetic: its last digits are rounding, some units of 2^-23.
    np.testing.assert_allclose(y.detach().numpy().ravel(), printed, rtol=4 * 2**-23)
    assert printed_like(PADDLE.running_mean, layer._mean.tolist()) == PADDLE.running_mean
    assert printed_like(PADDLE.running_var, layer._variance.tolist()) == PADDLE.running_var


def test_evaluation_is_that_of_the_formulas() -> None:
    generator = np.random.default_rng(3)
    vectors = [generator.uniform(0.5, 2, 3) for _ in NAMES]
    layer = SyncBatchNorm(3, momentum=0.5, dtype=torch.float64).eval()
    values = zip(NAMES, map(torch.from_numpy, vectors), strict=True)
    layer.load_state_dict(dict(values), strict=True)
    x = generator.standard_normal((4, 3, 5))
    expected = torch.from_numpy(Layer(*vectors).evaluate(x))
    assert_rounded(layer(torch.from_numpy(x)), expected, expected.abs() + 8)
    assert torch.equal(layer._mean, torch.from_numpy(vectors[2]))
