"""SyncBatchNorm in a world of one, against float64 and against torch's own layer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from closeness import assert_rounded
from layouts import LAYOUTS, SHAPES, laid_out
from shard_reference import normalize_shards, per_channel
from torch import nn

from syncnorm.torch import SyncBatchNorm, sync_batch_norm

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
TORCH_LAYER = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def parameter_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def random_layer(dtype: torch.dtype, **options: object) -> SyncBatchNorm:
    layer = SyncBatchNorm(5, dtype=parameter_dtype(dtype), **options)
    if layer.weight is not None:
        nn.init.uniform_(layer.weight, -2, 2)
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    if layer.running_mean is not None:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_training_step_is_rounded_float64(dtype: torch.dtype, layout: str, shape: tuple) -> None:
    x = laid_out(2 * torch.randn(shape) + 3, layout).to(dtype).requires_grad_()
    dy = torch.randn(shape).to(dtype)
    layer = random_layer(dtype)
    before = [layer.running_mean.double().clone(), layer.running_var.double().clone()]
    y = layer(x)
    y.backward(dy)

    exact_x = x.detach().double().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    bias = layer.bias.detach().double().requires_grad_()
    result = normalize_shards([exact_x], weight, bias)
    result.ys[0].backward(dy.double())

    assert y.dtype == dtype
    assert y.stride() == x.stride()
    assert x.grad.stride() == x.stride()
    invstd = per_channel(1 / (result.var + layer.eps).sqrt(), x).detach()
    xhat = (exact_x - per_channel(result.mean, x)).detach() * invstd
    w = per_channel(weight, x).detach().abs()
    assert_rounded(y, result.ys[0], xhat.abs() * w + per_channel(bias, x).abs())

    axes = [0, *range(2, x.dim())]
    size = dy.double().abs().mean(axes)
    projected = (dy.double() * xhat).abs().mean(axes)
    dx_terms = dy.double().abs() + per_channel(size, x) + xhat.abs() * per_channel(projected, x)
    assert_rounded(x.grad, exact_x.grad, w * invstd * dx_terms)
    assert_rounded(layer.bias.grad, bias.grad, size * result.count)
    assert_rounded(layer.weight.grad, weight.grad, projected * result.count)

    unbiased = result.var * result.count / (result.count - 1)
    for got, old, batch in zip(
        [layer.running_mean, layer.running_var], before, [result.mean, unbiased], strict=True
    ):
        assert_rounded(got, 0.9 * old + 0.1 * batch, 0.9 * old.abs() + 0.1 * batch.abs())
    assert layer.num_batches_tracked.item() == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_layer_of_torch_over_train_and_eval(shape: tuple) -> None:
    theirs = TORCH_LAYER[len(shape)](5).double()
    ours = SyncBatchNorm(5).double()
    for mode in [True, True, False]:
        theirs.train(mode)
        ours.train(mode)
        x = torch.randn(shape, dtype=torch.float64)
        results = []
        for layer in [theirs, ours]:
            leaf = x.clone().requires_grad_()
            layer.zero_grad()
            y = layer(leaf)
            (y**3).sum().backward()
            results.append([y, leaf.grad, layer.weight.grad, layer.bias.grad])
        torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu"])
def test_evaluation_with_gradients(dtype: torch.dtype, activation: str) -> None:
    layer = random_layer(dtype, activation=activation, negative_slope=0.25).eval()
    x = torch.randn(4, 5, 3, 2).to(dtype).requires_grad_()
    residual = torch.randn(4, 5, 3, 2).to(dtype).requires_grad_()
    y = layer(x, residual)
    y.backward(torch.ones_like(y))

    exact = [t.detach().double().requires_grad_() for t in (x, residual, layer.weight, layer.bias)]
    a, b, weight, bias = exact
    scale = per_channel(weight / (layer.running_var.double() + layer.eps).sqrt(), x)
    z = (a - per_channel(layer.running_mean.double(), x)) * scale + per_channel(bias, x) + b
    slope = {"identity": 1.0, "relu": 0.0, "leaky_relu": 0.25}[activation]
    torch.where(y.detach().double() > 0, z, slope * z).sum().backward()

    size = a.abs() * scale.abs() + per_channel(bias, x).abs() + b.abs() + 2 * scale.abs()
    assert_rounded(y, torch.where(z > 0, z, slope * z), size)
    assert_rounded(x.grad, a.grad, scale)
    assert_rounded(residual.grad, b.grad, torch.ones(()))
    count = x.numel() / 5
    assert_rounded(layer.bias.grad, bias.grad, torch.tensor(count))
    assert_rounded(layer.weight.grad, weight.grad, torch.tensor(count * 8))
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize("weight_dtype", DTYPES[:3])
@pytest.mark.parametrize("buffer_dtype", DTYPES[:3])
@pytest.mark.parametrize("dtype", DTYPES[:3])
def test_any_mix_of_short_dtypes(
    dtype: torch.dtype, weight_dtype: torch.dtype, buffer_dtype: torch.dtype
) -> None:
    layer = random_layer(torch.float32)
    layer.weight.data = layer.weight.data.to(weight_dtype)
    layer.running_mean = layer.running_mean.to(buffer_dtype)
    layer.running_var = layer.running_var.to(buffer_dtype)
    x = torch.randn(8, 5).to(dtype).requires_grad_()
    y = layer(x)
    y.sum().backward()
    result = normalize_shards([x.detach()], layer.weight.detach(), layer.bias.detach())
    assert y.dtype == dtype
    assert x.grad.dtype == dtype
    assert layer.weight.grad.dtype == weight_dtype
    assert layer.bias.grad.dtype == torch.float32
    assert layer.running_mean.dtype == buffer_dtype
    assert_rounded(y, result.ys[0], result.ys[0].abs() + layer.bias.abs())


def test_float64_input_with_float32_parameters() -> None:
    layer = random_layer(torch.float32)
    x = torch.randn(8, 5, dtype=torch.float64)
    result = normalize_shards([x], layer.weight.detach(), layer.bias.detach())
    torch.testing.assert_close(layer(x), result.ys[0], rtol=1e-13, atol=1e-13)


def test_cumulative_momentum_is_the_average_over_batches() -> None:
    layer = SyncBatchNorm(5, momentum=None, dtype=torch.float64)
    batches = torch.randn(4, 6, 5, dtype=torch.float64)
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, batches.mean(1).mean(0))
    torch.testing.assert_close(layer.running_var, batches.var(1).mean(0))
    assert layer.num_batches_tracked.item() == 4


def test_without_affine_or_bias() -> None:
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    plain = SyncBatchNorm(5, affine=False)
    torch.testing.assert_close(plain(x), normalize_shards([x.detach()]).ys[0])
    assert plain.weight is None
    assert plain.bias is None

    no_bias = SyncBatchNorm(5, bias=False, dtype=torch.float64)
    no_bias.weight.data.fill_(2)
    y = no_bias(x)
    torch.testing.assert_close(y, 2 * normalize_shards([x.detach()]).ys[0])
    y.sum().backward()
    assert no_bias.bias is None
    assert no_bias.weight.grad.shape == (5,)


def test_without_running_statistics_evaluation_uses_the_batch() -> None:
    layer = SyncBatchNorm(5, track_running_stats=False, dtype=torch.float64).eval()
    assert set(layer.state_dict()) == {"weight", "bias"}
    x = torch.randn(6, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), normalize_shards([x]).ys[0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("with_channel", [False, True])
def test_masked_positions_are_normalized_but_do_not_count(
    dtype: torch.dtype, with_channel: bool
) -> None:
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([7, 2, 0]).unsqueeze(1)
    layer = SyncBatchNorm(5, dtype=torch.float64)
    given = mask.to(dtype)
    y = layer(x, mask=given.unsqueeze(1) if with_channel else given)
    result = normalize_shards([x], masks=[mask])
    torch.testing.assert_close(y, result.ys[0])
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * result.var * 9 / 8)


@pytest.mark.parametrize("shape", [(0, 5), (0, 5, 4, 4), (3, 5, 0)])
def test_empty_batch_leaves_everything_alone(shape: tuple) -> None:
    layer = SyncBatchNorm(5)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not layer.weight.grad.any()
    assert not layer.bias.grad.any()
    assert layer.num_batches_tracked.item() == 0
    assert not layer.running_mean.any()
    assert (layer.running_var == 1).all()


def test_one_value_per_channel_gives_the_bias_and_finite_statistics() -> None:
    layer = random_layer(torch.float64)
    x = torch.randn(1, 5, dtype=torch.float64)
    expected_var = 0.9 * layer.running_var
    torch.testing.assert_close(layer(x)[0], layer.bias.detach())
    torch.testing.assert_close(layer.running_var, expected_var)


def test_nan_and_infinity_stay_in_their_channel() -> None:
    x = torch.randn(4, 5)
    x[0, 1], x[0, 3] = float("nan"), float("inf")
    y = SyncBatchNorm(5, activation="relu", track_running_stats=False)(x)
    assert y[:, [1, 3]].isnan().all()
    assert y[:, [0, 2, 4]].isfinite().all()


def test_autocast_keeps_float32_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), SyncBatchNorm(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.randn(2, 3, 8, 8))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_functional_form_takes_the_arguments_of_torch() -> None:
    x = torch.randn(6, 5, dtype=torch.float64)
    weight, bias = torch.randn(2, 5, dtype=torch.float64)
    for training in [True, False]:
        ours, theirs = [
            [torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)]
            for _ in range(2)
        ]
        y = sync_batch_norm(x, *ours, weight, bias, training, 0.3, 1e-3)
        expected = nn.functional.batch_norm(x, *theirs, weight, bias, training, 0.3, 1e-3)
        torch.testing.assert_close([y, *ours], [expected, *theirs])
    with pytest.raises(ValueError, match="running_mean"):
        sync_batch_norm(x)
    with pytest.raises(ValueError, match="weight"):
        sync_batch_norm(x, weight=weight[:4], training=True)


def test_an_option_that_is_deleted_has_its_default_again() -> None:
    layer = SyncBatchNorm(3, activation="relu")
    x = torch.randn(8, 3)
    assert layer(x).min() == 0
    del layer.activation
    assert layer(x).min() < 0


def test_a_state_that_is_set_brings_its_options() -> None:
    layer, other = SyncBatchNorm(3, activation="relu"), SyncBatchNorm(3)
    x = torch.randn(8, 3)
    layer(x)
    layer.__setstate__(other.__getstate__())
    assert layer(x).min() < 0


def test_statistics_that_are_no_buffers_any_more() -> None:
    x = torch.randn(8, 3) + 5
    parametrized = SyncBatchNorm(3).eval()
    nn.utils.parametrize.register_parametrization(parametrized, "running_mean", nn.Identity())
    torch.testing.assert_close(parametrized(x), SyncBatchNorm(3).eval()(x))
    layer = SyncBatchNorm(3)
    for name in ("running_mean", "running_var"):
        delattr(layer, name)
        setattr(layer, name, None)
    torch.testing.assert_close(layer.eval()(x), SyncBatchNorm(3)(x))


def test_copies_of_a_compiled_layer_are_not_compiled() -> None:
    layer = SyncBatchNorm(3)
    layer.compile(backend="eager")
    x = torch.randn(8, 3)
    layer(x)
    for copied in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            copied.weight = nn.Parameter(torch.full((3,), 5.0))
        assert copied(x).std() > 4
    assert layer.num_batches_tracked == 1 + 1  # copy.copy shares the buffers
