"""A list of tensors as one batch: training, evaluation and what is refused."""

from __future__ import annotations

import pytest
import torch
from shard_reference import normalize_shards, per_channel
from torch import Tensor, nn

from syncnorm.comm import thread_group
from syncnorm.torch import SyncBatchNorm, sync_batch_norm_shards

SHAPES = [(3, 5, 4), (0, 5, 4), (1, 5, 7)]


def shards() -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in SHAPES]


def random_layer(**options: object) -> SyncBatchNorm:
    layer = SyncBatchNorm(5, dtype=torch.float64, **options)
    if layer.weight is not None:
        nn.init.uniform_(layer.weight, -2, 2)
        nn.init.normal_(layer.bias)
    if layer.running_mean is not None:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("activation", ["identity", "leaky_relu"])
def test_training_uses_the_statistics_of_all(activation: str, as_tuple: bool) -> None:
    layer = random_layer(activation=activation, negative_slope=0.25)
    old_var = layer.running_var.clone()
    xs, residuals = shards(), shards()
    masks = [torch.rand(x.shape[0], x.shape[2]) < 0.7 for x in xs]
    dys = [torch.randn_like(x) for x in xs]
    ys = layer(tuple(xs) if as_tuple else xs, residuals, masks)
    assert type(ys) is list
    leaves = [*xs, *residuals, layer.weight, layer.bias]
    gradients = torch.autograd.grad(ys, leaves, dys)

    expected = normalize_shards(
        xs,
        layer.weight,
        layer.bias,
        activation=activation,
        negative_slope=0.25,
        masks=masks,
        residuals=residuals,
    )
    torch.testing.assert_close(ys, expected.ys)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.ys, leaves, dys))
    unbiased = expected.var * expected.count / (expected.count - 1)
    torch.testing.assert_close(layer.running_var, 0.9 * old_var + 0.1 * unbiased.detach())
    assert layer.num_batches_tracked.item() == 1


@pytest.mark.parametrize("freeze", [False, True])
def test_evaluation_uses_the_running_statistics(freeze: bool) -> None:
    layer = random_layer(activation="relu").train(freeze)
    layer.freeze = freeze
    xs, residuals = shards(), shards()
    some = [residuals[0], None, residuals[2]]
    ys = layer(xs, some)
    leaves = [xs[0], xs[2], residuals[2]] + ([] if freeze else [layer.weight, layer.bias])
    gradients = torch.autograd.grad([y.sum() for y in ys], leaves)

    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    expected = []
    for x, residual in zip(xs, some, strict=True):
        y = (x - per_channel(layer.running_mean, x)) * per_channel(scale, x)
        y = y + per_channel(layer.bias, x)
        expected.append((y if residual is None else y + residual).relu())
    torch.testing.assert_close(ys, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad([y.sum() for y in expected], leaves))
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize("training", [True, False])
def test_without_running_statistics(training: bool) -> None:
    layer = random_layer(track_running_stats=False, affine=False).train(training)
    xs = shards()
    torch.testing.assert_close(layer(xs), normalize_shards(xs).ys)


def test_one_tensor_in_a_list_is_like_the_tensor() -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    first, second = random_layer(), random_layer()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first([x]), [second(x)])
    torch.testing.assert_close(first.state_dict(), second.state_dict())


def test_a_group_and_a_list_do_not_go_together_in_training() -> None:
    layer = SyncBatchNorm(5, dtype=torch.float64, process_group=thread_group(2)[0])
    with pytest.raises(ValueError, match="got a list of 3 tensors in training with a process gro"):
        layer(shards())
    assert len(layer.eval()(shards())) == 3


@pytest.mark.parametrize(
    ("inputs", "more", "message"),
    [
        ([], {}, "inputs: got no tensor"),
        ([torch.zeros(2, 4)], {}, "expected 5 channels"),
        ([torch.zeros(2, 5), torch.zeros(2, 5).double()], {}, r"inputs\[1\]: got .*float64"),
        ([torch.zeros(2, 5)], {"residual": []}, "residual.*: got 0, expected 1"),
        ([torch.zeros(2, 5)], {"mask": torch.ones(2).bool()}, "mask.*: got one tensor"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_refused_lists(training: bool, inputs: list, more: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm(5).train(training)(inputs, **more)


@pytest.mark.parametrize("inputs", [[torch.zeros(3)], [torch.zeros(2, 3), torch.zeros(3)]])
def test_shards_of_one_dimension_are_refused(inputs: list) -> None:
    with pytest.raises(ValueError, match=r"inputs\[.\]: (expected at least 2D|got shape \(3,\))"):
        sync_batch_norm_shards(inputs)
