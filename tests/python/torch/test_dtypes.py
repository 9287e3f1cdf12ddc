"""Dtypes: autocast, half models, and any mix of input, parameters and running statistics.

Everything is compared with float64 arithmetic on the same rounded numbers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closeness import assert_rounded
from shard_reference import normalize_shards, per_channel
from torch import Tensor, nn

from support.pairwise import Row, covering_rows
from syncnorm.torch import SyncBatchNorm

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
SHORT = [F16, BF16]
EPS = 1e-5

FACTORS = {
    "input": (F16, BF16, F32, F64),
    "weight": (F16, BF16, F32, F64, None),
    "bias": (F16, BF16, F32, F64, None),
    "running_mean": (F16, BF16, F32, F64),
    "running_var": (F16, BF16, F32, F64),
    "training": (True, False),
    "shape": ((9, 5), (4, 5, 7), (3, 5, 4, 4)),
}
PARAMETERS = ("weight", "bias", "running_mean", "running_var")


def allowed(row: Row) -> bool:
    """float64 goes with 64 and 32 bits, what is shorter with 32 and 16."""
    if "input" not in row:
        return not {F64} & set(row.values()) or not {F16, BF16} & set(row.values())
    others = {row[name] for name in PARAMETERS if name in row}
    return not others & ({F16, BF16} if row["input"] == F64 else {F64})


def name_of(row: Row) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in row.values())


def layer_of(row: dict[str, Any]) -> SyncBatchNorm:
    layer = SyncBatchNorm(5, affine=False)
    for name in ("weight", "bias"):
        if row[name] is not None:
            value = torch.randn(5) if name == "bias" else torch.empty(5).uniform_(0.5, 2)
            setattr(layer, name, nn.Parameter(value.to(row[name])))
    layer.running_mean = torch.randn(5).to(row["running_mean"])
    layer.running_var = torch.empty(5).uniform_(0.5, 2).to(row["running_var"])
    return layer.train(row["training"])


def double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().to(F64, copy=True)


def leaf_of(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else double(tensor).requires_grad_()


def assert_step_is_rounded(layer: SyncBatchNorm, x: Tensor, dy: Tensor) -> None:
    """One step of the layer against float64; x is a leaf that requires a gradient."""
    old = double(layer.running_mean), double(layer.running_var)
    kinds = {name: buffer.dtype for name, buffer in layer.named_buffers()}
    y = layer(x)
    y.backward(dy)

    leaf, weight, bias = leaf_of(x), leaf_of(layer.weight), leaf_of(layer.bias)
    uses_batch = layer.training or old[0] is None
    if uses_batch:
        result = normalize_shards([leaf], weight, bias)
        mean, var, expected = double(result.mean), double(result.var), result.ys[0]
    else:
        mean, var = old
        expected = normalized(leaf, mean, var, weight, bias)
    expected.backward(double(dy))

    # The magnitudes of what is added.
    w = 1 if weight is None else per_channel(weight.detach().abs(), x)
    b = 0 if bias is None else per_channel(bias.detach().abs(), x)
    invstd = per_channel((var + EPS).rsqrt(), x)
    xhat = (double(x).abs() + per_channel(mean.abs(), x)) * invstd
    axes, size = [0, *range(2, x.dim())], double(dy).abs()
    sums = {"bias": size.sum(axes), "weight": (size * xhat).sum(axes)}
    count = x.numel() / 5
    of_batch = (per_channel(sums["bias"], x) + xhat * per_channel(sums["weight"], x)) / count

    assert y.dtype == x.grad.dtype == x.dtype
    assert_rounded(y, expected, xhat * w + b)
    assert_rounded(x.grad, leaf.grad, w * invstd * (size + uses_batch * of_batch))
    for name, exact in (("weight", weight), ("bias", bias)):
        if exact is not None:
            parameter = getattr(layer, name)
            assert parameter.grad.dtype == parameter.dtype
            assert_rounded(parameter.grad, exact.grad, sums[name])
    assert {name: buffer.dtype for name, buffer in layer.named_buffers()} == kinds
    if layer.training and old[0] is not None:
        for got, before, batch in (
            (layer.running_mean, old[0], mean),
            (layer.running_var, old[1], var * count / (count - 1)),
        ):
            assert_rounded(got, 0.9 * before + 0.1 * batch, 0.9 * before.abs() + 0.1 * batch.abs())


def normalized(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    y = (x - per_channel(mean, x)) / (per_channel(var, x) + EPS).sqrt()
    y = y if weight is None else y * per_channel(weight, x)
    return y if bias is None else y + per_channel(bias, x)


def random_step(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = (2 * torch.randn(shape) + 1).to(dtype).requires_grad_()
    return x, torch.randn(shape).to(dtype)


@pytest.mark.parametrize("row", covering_rows(FACTORS, allowed), ids=name_of)
def test_any_mix_of_dtypes(row: dict[str, Any]) -> None:
    layer = layer_of(row)
    assert_step_is_rounded(layer, *random_step(row["shape"], row["input"]))
    assert layer.num_batches_tracked.item() == int(row["training"])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [*SHORT, F64])
def test_models_of_one_dtype(dtype: torch.dtype, training: bool) -> None:
    """What half(), bfloat16() and double() make of a model."""
    layer = SyncBatchNorm(5).to(dtype)
    assert {tensor.dtype for tensor in layer.state_dict().values()} == {dtype, torch.int64}
    layer.train(training)
    for step in range(1, 4):
        layer.zero_grad()
        assert_step_is_rounded(layer, *random_step((4, 5, 6), dtype))
        assert layer.num_batches_tracked.item() == step * training
    assert layer.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_without_running_statistics(dtype: torch.dtype, training: bool, affine: bool) -> None:
    for parameters in (dtype, F32):
        layer = SyncBatchNorm(5, affine=affine, track_running_stats=False, dtype=parameters)
        assert_step_is_rounded(layer.train(training), *random_step((6, 5, 3), dtype))


@pytest.mark.parametrize("dtype", SHORT)
def test_cumulative_average_in_16_bits(dtype: torch.dtype) -> None:
    layer = SyncBatchNorm(5, momentum=None).to(dtype)
    expected = torch.zeros(5, dtype=F64)
    for step in range(1, 5):
        batch = torch.randn(8, 5).to(dtype)
        layer(batch)
        mean = batch.double().mean(0)
        assert_rounded(layer.running_mean, expected + (mean - expected) / step, mean.abs() + 1)
        expected = layer.running_mean.double()
    assert layer.num_batches_tracked.item() == 4


@pytest.mark.parametrize(
    ("dtype", "parameters"), [(F64, F16), (F64, BF16), (F32, F64), (F16, F64), (BF16, F64)]
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_mixes_that_are_refused(
    dtype: torch.dtype, parameters: torch.dtype, training: bool
) -> None:
    names = [str(kind).removeprefix("torch.") for kind in (dtype, parameters)]
    with pytest.raises(ValueError, match=rf"(?s){names[1]}.*{names[0]}|{names[0]}.*{names[1]}"):
        SyncBatchNorm(5).to(parameters).train(training)(torch.randn(6, 5).to(dtype))


def test_integers_are_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="int64"):
        SyncBatchNorm(5)(torch.ones(6, 5, dtype=torch.int64))


class Recorded(nn.Module):
    """A convolution and a normalization, which keeps what passes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalization = nn.Conv2d(3, 5, 3), SyncBatchNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        self.between = self.convolution(x)
        self.between.retain_grad()
        return self.normalization(self.between)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", SHORT)
def test_autocast(dtype: torch.dtype, training: bool) -> None:
    """16-bit input and output; parameters, their gradients and running statistics in float32."""
    model = Recorded().train(training)
    layer = model.normalization
    with torch.autocast("cpu", dtype=dtype):
        y = model(torch.randn(2, 3, 6, 6))
    assert y.dtype == model.between.dtype == dtype
    dy = torch.randn(y.shape).to(dtype)
    y.backward(dy)
    assert all(p.grad.dtype == F32 for p in model.parameters())
    assert layer.running_mean.dtype == layer.running_var.dtype == F32

    # The same step of a layer in the same state, without autocast.
    again = SyncBatchNorm(5).train(training)
    x = model.between.detach().requires_grad_()
    assert_step_is_rounded(again, x, dy)
    for got, expected in (
        (y, again(x) if not training else SyncBatchNorm(5)(x)),
        (model.between.grad, x.grad),
        (layer.weight.grad, again.weight.grad),
        (layer.bias.grad, again.bias.grad),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64])
def test_autocast_leaves_the_input_s_dtype(dtype: torch.dtype) -> None:
    layer = SyncBatchNorm(5, device="cpu", dtype=F64 if dtype == F64 else F32)
    with torch.autocast("cpu", dtype=BF16):
        assert_step_is_rounded(layer, *random_step((4, 5, 3), dtype))


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_backward_is_the_same_inside_and_outside_of_autocast(inside: bool) -> None:
    """Autocast acts on forward only, wherever backward is called."""
    layer, (x, dy) = SyncBatchNorm(5), random_step((4, 5, 6), BF16)
    with torch.autocast("cpu", dtype=F16):
        y = layer(x)
        y = layer(y)
    with torch.autocast("cpu", dtype=F16, enabled=inside):
        y.backward(dy)
    expected = x.detach().clone().requires_grad_()
    plain = SyncBatchNorm(5)
    plain(plain(expected)).backward(dy)
    assert x.grad.dtype == BF16
    torch.testing.assert_close(x.grad, expected.grad, rtol=0, atol=0)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=0, atol=0)
    torch.testing.assert_close(layer.state_dict(), plain.state_dict(), rtol=0, atol=0)
