"""lengths=: the valid positions per sample, in place of a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm
from syncnorm.torch import (
    BatchNormAct,
    LazySyncBatchNorm,
    SyncBatchNorm,
    convert_sync_batchnorm,
    functional,
    sync_batch_norm,
    sync_batch_norm_shards,
)

SHAPES = [(3, 4, 5), (3, 4, 2, 5), (3, 4, 2, 3, 5)]
LENGTHS = torch.tensor([5, 0, 2])


def counted(x: Tensor, lengths: Tensor) -> Tensor:
    """The mask, written out position by position."""
    mask = torch.zeros(x.shape[0], *x.shape[2:], dtype=torch.bool)
    for sample, length in enumerate(lengths.tolist()):
        mask[sample, ..., :length] = True
    return mask


def layer_of(**options: Any) -> SyncBatchNorm:
    return SyncBatchNorm(4, dtype=torch.float64, **options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_the_layer_equals_one_with_the_mask(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    dy = torch.randn_like(x)
    layer = layer_of()
    y = layer(x, lengths=LENGTHS.to(dtype))
    (dx,) = torch.autograd.grad(y, x, dy)
    mask = counted(x, LENGTHS)
    expected = normalize_shards([x], masks=[mask])
    torch.testing.assert_close(y, expected.ys[0])
    torch.testing.assert_close(dx, torch.autograd.grad(expected.ys[0], x, dy)[0])
    unbiased = expected.var * expected.count / (expected.count - 1)
    torch.testing.assert_close(layer.running_var, (0.9 + 0.1 * unbiased).detach())


def test_ranks_have_lengths_of_their_own() -> None:
    xs = [torch.randn(3, 4, 5 + rank, dtype=torch.float64) for rank in range(2)]
    lengths = [LENGTHS, torch.tensor([0, 6, 1])]
    expected = normalize_shards(
        xs, masks=[counted(*each) for each in zip(xs, lengths, strict=True)]
    )

    def step(rank: int, communicator: syncnorm.Communicator) -> Tensor:
        return layer_of(process_group=communicator)(xs[rank], lengths=lengths[rank])

    torch.testing.assert_close(run_ranks(2, step), expected.ys)


def test_lists_and_functions_take_them() -> None:
    xs = [torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)]
    masks = [counted(xs[0], LENGTHS), torch.ones(2, 3, dtype=torch.bool)]
    expected = normalize_shards(xs, masks=masks).ys
    torch.testing.assert_close(layer_of()(xs, lengths=[LENGTHS, None]), expected)
    torch.testing.assert_close(sync_batch_norm_shards(xs, lengths=(LENGTHS, None)), expected)
    y = sync_batch_norm(xs[0], training=True, lengths=LENGTHS)
    torch.testing.assert_close(y, normalize_shards(xs[:1], masks=masks[:1]).ys[0])


def test_layers_with_modules_and_lazy_ones_take_them() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    expected = normalize_shards([x], masks=[counted(x, LENGTHS)]).ys[0]
    act = convert_sync_batchnorm(BatchNormAct(4, act=nn.ReLU(), dtype=torch.float64))
    torch.testing.assert_close(act(x, lengths=LENGTHS), expected.relu())
    lazy = LazySyncBatchNorm(dtype=torch.float64)
    torch.testing.assert_close(lazy(x, lengths=LENGTHS), expected)


def test_the_phases_take_them() -> None:
    x, dy = torch.randn(2, 3, 4, 5).unbind(0)
    settings = functional.Settings()
    results = []
    for given in ({"lengths": LENGTHS}, {"mask": counted(x, LENGTHS)}):
        wire, _ = functional.moments(x, settings, **given)
        _, saved = functional.normalize(x, wire, None, 1, settings)
        wire = functional.grad_moments(x, dy, saved, settings)
        gradients = functional.grad_input(x, dy, saved, wire, None, 1, settings, **given)
        results.append((wire, gradients.x))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_a_sample_of_no_length_and_an_empty_batch() -> None:
    layer = layer_of()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    layer(x, lengths=torch.tensor([0, 0]))
    layer(x[:0], lengths=torch.tensor([], dtype=torch.int64))
    torch.testing.assert_close(layer.running_mean, torch.zeros(4, dtype=torch.float64))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_compiled(shape: tuple[int, ...], dynamic: bool) -> None:
    torch._dynamo.reset()
    layer = layer_of()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    dy = torch.randn_like(x)
    gradients = [
        torch.autograd.grad(call(x, lengths=LENGTHS), x, dy)[0] for call in (compiled, layer)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_lengths_that_are_not_read_are_clamped() -> None:
    """On the meta device nothing can be read; in compiled code nothing is."""
    torch._dynamo.reset()
    compiled = torch.compile(layer_of(), fullgraph=True, backend="eager")
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    y = compiled(x, lengths=torch.tensor([9, -3, 2]))
    torch.testing.assert_close(y, layer_of()(x, lengths=LENGTHS))
    meta = SyncBatchNorm(4, device="meta")(x.float().to("meta"), lengths=LENGTHS.to("meta"))
    assert meta.shape == x.shape


def test_evaluation_does_not_use_them() -> None:
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    layer = layer_of().eval()
    torch.testing.assert_close(layer(x, lengths=LENGTHS), layer(x), rtol=0, atol=0)
    alone = layer_of(track_running_stats=False).eval()
    expected = normalize_shards([x], masks=[counted(x, LENGTHS)]).ys[0]
    torch.testing.assert_close(alone(x, lengths=LENGTHS), expected)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([5, 0, 2], TypeError, "lengths: got list, expected a torch.Tensor"),
        (
            torch.ones(3),
            ValueError,
            r"lengths: got shape \(3,\) and torch.float32, expected \(3,\)",
        ),
        (torch.ones(3, dtype=torch.bool), ValueError, "and torch.bool, expected"),
        (torch.ones(3, 1, dtype=torch.int64), ValueError, r"lengths: got shape \(3, 1\)"),
        (torch.ones(2, dtype=torch.int64), ValueError, r"an integer dtype for an input of shape"),
        (torch.tensor([1, -1, 2]), ValueError, "got values from -1 to 2, expected 0 to 5, the le"),
        (torch.tensor([1, 6, 2]), ValueError, "got values from 1 to 6, expected 0 to 5, the leng"),
        (torch.ones(3, dtype=torch.int64, device="meta"), ValueError, "on meta, expected cpu or"),
    ],
)
def test_refused_lengths(lengths: Any, error: type[Exception], message: str) -> None:
    calls: list[Callable[[Tensor], Any]] = [
        lambda x: layer_of()(x, lengths=lengths),
        lambda x: layer_of()([x], lengths=[lengths]),
        lambda x: sync_batch_norm(x, training=True, lengths=lengths),
        lambda x: functional.moments(x, functional.Settings(), lengths=lengths),
    ]
    for call in calls:
        with pytest.raises(error, match=message) as raised:
            call(torch.randn(3, 4, 5, dtype=torch.float64))
        assert isinstance(raised.value, syncnorm.Error)


def test_refused_inputs_and_masks() -> None:
    mask = torch.ones(3, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="lengths: got a mask as well, expected one of them"):
        layer_of()(torch.randn(3, 4, 5, dtype=torch.float64), mask=mask, lengths=LENGTHS)
    with pytest.raises(ValueError, match=r"got an input of shape \(3, 4\), expected \(N, C, .*L\)"):
        layer_of()(torch.randn(3, 4, dtype=torch.float64), lengths=LENGTHS)
    with pytest.raises(ValueError, match="lengths: got Tensor, expected a list of 1, one item per"):
        layer_of()([torch.randn(3, 4, 5, dtype=torch.float64)], lengths=LENGTHS)
    with pytest.raises(ValueError, match="lengths: got 2, expected a list of 1"):
        layer_of()([torch.randn(3, 4, 5, dtype=torch.float64)], lengths=[LENGTHS, LENGTHS])


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_mask_of_another_dtype_is_explained(dtype: torch.dtype) -> None:
    mask = torch.ones(3, 5, dtype=dtype)
    with pytest.raises(ValueError, match="mask: got dtype") as raised:
        layer_of()(torch.randn(3, 4, 5, dtype=torch.float64), mask=mask)
    assert str(raised.value) == (
        f"mask: got dtype {dtype}, expected torch.bool or torch.uint8, True or 1 where a position"
        " counts; pass mask.bool() for a mask of ones and zeros, (mask == 0) for one that is added"
        " to scores, and ~key_padding_mask, as that is True at padding"
    )
