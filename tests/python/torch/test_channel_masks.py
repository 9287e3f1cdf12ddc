"""A mask of the input's shape: the positions that count differ between the channels."""

from __future__ import annotations

import pytest
import torch
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor, nn

from syncnorm import DesyncError, InvalidArgumentError
from syncnorm.torch import SyncBatchNorm, sync_batch_norm

C = 3
SHAPES = [(6, C), (4, C, 5), (2, C, 3, 4)]


def made(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return an input and a mask of its shape, with another number of positions per channel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + 4
    mask = torch.rand(shape, generator=generator) < 0.7
    mask[0, 0], mask[-1, 0], mask[:, 2] = True, False, True
    return x, mask


def expected(xs: list[Tensor], masks: list[Tensor], layer: nn.Module) -> tuple[list[Tensor], ...]:
    """Return outputs, and running statistics after one step, channel by channel in float64."""
    ys, means, variances = [], [], []
    for one in (slice(channel, channel + 1) for channel in range(C)):
        result = normalize_shards(
            [x[:, one] for x in xs],
            layer.weight[one],
            layer.bias[one],
            masks=[mask[:, one].squeeze(1) for mask in masks],
            activation=layer.activation,
        )
        ys.append(result.ys)
        count = sum(mask[:, one].sum() for mask in masks)
        means.append(0.1 * result.mean)
        variances.append(0.9 + 0.1 * result.var * count / (count - 1))
    ys = [torch.cat(channels, 1) for channels in zip(*ys, strict=True)]
    return ys, [torch.cat(means), torch.cat(variances)]


def layer(**options: object) -> SyncBatchNorm:
    bn = SyncBatchNorm(C, dtype=torch.float64, **options)
    with torch.no_grad():
        bn.weight.copy_(torch.tensor([1.5, -0.5, 2.0]))
        bn.bias.copy_(torch.tensor([0.5, 1.0, -1.0]))
    return bn


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_each_channel_has_its_own_count(shape, dtype, activation) -> None:
    x, mask = made(shape)
    bn = layer(activation=activation)
    x.requires_grad_()
    (y,), statistics = expected([x], [mask], bn)
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(y, [x, bn.weight, bn.bias], dy)
    got = bn(x, mask=mask.to(dtype))
    torch.testing.assert_close(got, y)
    torch.testing.assert_close(torch.autograd.grad(got, [x, bn.weight, bn.bias], dy), wanted)
    torch.testing.assert_close([bn.running_mean, bn.running_var], [s.detach() for s in statistics])
    assert bn.num_batches_tracked == 1


def test_over_ranks() -> None:
    xs, masks = zip(*(made((4 + rank, C, 5), rank) for rank in range(2)), strict=True)
    (y0, y1), statistics = expected(list(xs), list(masks), layer())

    def rank(rank: int, comm: object) -> tuple[Tensor, ...]:
        bn = layer(process_group=comm)
        y = bn(xs[rank], mask=masks[rank])
        return y, bn.running_mean, bn.running_var

    for got, y in zip(run_ranks(2, rank), (y0, y1), strict=True):
        torch.testing.assert_close(got, (y, *statistics), check_dtype=True)


@pytest.mark.parametrize("other", ["channels", "mask"])
def test_ranks_with_other_channels_or_one_mask_for_all_are_a_desync(other: str) -> None:
    def rank(rank: int, comm: object) -> None:
        count = 2 if rank == 1 and other == "channels" else 3
        bn = SyncBatchNorm(count, name="layer", process_group=comm)
        x, mask = torch.randn(4, count, 5), torch.ones(4, count, 5, dtype=torch.bool)
        with pytest.raises(DesyncError):
            bn(x, mask=mask[:, 0] if rank == 1 and other == "mask" else mask)
        assert not bn.running_mean.any()
        assert bn.num_batches_tracked == 0

    run_ranks(2, rank)


def test_cumulative_average_counts_a_batch_once() -> None:
    bn = layer(momentum=None)
    batches = [made((4, C, 5), seed) for seed in range(2)]
    means = []
    for x, mask in batches:
        bn(x, mask=mask)
        means.append((x * mask).sum((0, 2)) / mask.sum((0, 2)))
    assert bn.num_batches_tracked == 2
    torch.testing.assert_close(bn.running_mean, torch.stack(means).mean(0))


def test_a_channel_that_no_position_counts_in_keeps_its_statistics() -> None:
    x, mask = made((4, C, 5))
    mask[:, 2] = False
    bn = layer()
    assert bn(x, mask=mask).isfinite().all()
    assert (bn.running_mean[2], bn.running_var[2]) == (0, 1)
    assert bn.running_mean[0] != 0
    assert bn.num_batches_tracked == 1
    bn(x, mask=torch.zeros_like(mask))
    assert bn.num_batches_tracked == 1


@pytest.mark.parametrize("in_place", [False, True])
def test_layout_residual_and_in_place(in_place) -> None:
    x, mask = made((2, C, 3, 4))
    x = x.to(memory_format=torch.channels_last)
    added = None if in_place else torch.randn_like(x)
    bn = layer(in_place=in_place)
    (y,), _ = expected([x], [mask], bn)
    got = bn(x.clone(), added, mask)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, y if added is None else y + added)


def test_the_same_mask_in_every_channel_is_the_mask_without_channels() -> None:
    x, mask = made((4, C, 5))
    mask = mask[:, :1]
    one, each = layer(), layer()
    torch.testing.assert_close(one(x, mask=mask), each(x, mask=mask.expand_as(x)))
    torch.testing.assert_close(one.state_dict(), each.state_dict())


def test_function_evaluation_and_compiled() -> None:
    x, mask = made((4, C, 5))
    bn = layer()
    (y,), _ = expected([x], [mask], bn)
    got = sync_batch_norm(x, weight=bn.weight, bias=bn.bias, training=True, mask=mask)
    torch.testing.assert_close(got, y)
    torch.compiler.reset()  # other tests may have reached the limit of recompilations
    graph = torch.compile(layer(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(graph(x, mask=mask), y)
    bn.eval()
    torch.testing.assert_close(bn(x, mask=mask), bn(x))


def test_another_number_of_channels_is_refused() -> None:
    x, mask = made((4, C, 5))
    with pytest.raises(ValueError, match=r"mask: got shape \(4, 2, 5\)"):
        layer()(x, mask=mask[:, :2])


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var", "residual"])
def test_a_vector_of_another_length_is_refused(name) -> None:
    x, mask = made((4, C, 5))
    given = {"running_mean": torch.zeros(C), "running_var": torch.ones(C)}
    given[name] = torch.ones(4, 2, 5) if name == "residual" else torch.ones(C + 1)
    with pytest.raises(InvalidArgumentError, match=f"{name}: got [24] channels, expected {C}"):
        sync_batch_norm(x, **given, training=True, mask=mask)
