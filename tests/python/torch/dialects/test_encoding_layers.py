"""PyTorch-Encoding's layers: lists and ranks that are threads, against its formulas."""

from __future__ import annotations

import copy
import inspect
import pickle

import encoding_formulas as formulas
import numpy as np
import pytest
import torch
from dialect_steps import (
    RATE,
    SHAPES,
    Batch,
    Expected,
    Got,
    assert_step,
    batches,
    descend,
    parameters,
    set_parameters,
    train,
)
from thread_ranks import run_ranks
from torch import nn

from support.signatures import positional
from support.vectors import UNEQUAL, VECTORS, printed_like
from syncnorm.torch import BatchNorm, convert_sync_batchnorm, revert_sync_batchnorm
from syncnorm.torch.encoding import BatchNorm1d, BatchNorm2d

LAYERS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d}
BOTH = pytest.mark.parametrize("kind", [BatchNorm1d, BatchNorm2d])
COUNT = next(v for v in VECTORS if v.weighting == "count")


def cases() -> dict[str, list]:
    return {name: s for name, s in SHAPES.items() if len({len(x) for x in s}) == 1}


def expected_steps(data: list[Batch], *, of_all: bool) -> list[Expected]:
    """of_all: the gradients of the parameters are those of all devices together."""
    gamma, beta = parameters()
    running = np.zeros(4), np.ones(4)
    steps = []
    for batch in data:
        result = formulas.forward(batch.xs, gamma, beta)
        back = formulas.backward(result, batch.xs, batch.dys, gamma)
        running = formulas.running(result, 0.1, *running)
        dgamma, dbeta = sum(back.dgammas), sum(back.dbetas)
        ranks = len(batch.xs)
        reported = ([dgamma] * ranks, [dbeta] * ranks) if of_all else (back.dgammas, back.dbetas)
        share = [1 / max(result.count, 1)] * ranks
        # The formulas' sums of squares are rounded as well.
        sizes = result.norms, (1 + np.abs(gamma)) / result.std, share
        steps.append(Expected(result.ys, back.dxs, *reported, [running] * ranks, *sizes))
        gamma, beta = gamma - RATE * dgamma, beta - RATE * dbeta
    return steps


def layer_of(shape: tuple, dtype: torch.dtype = torch.float64, **options) -> nn.Module:
    layer = LAYERS[len(shape)](4, dtype=dtype, **options)
    set_parameters(layer, *parameters())
    return layer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shapes", cases().values(), ids=cases().keys())
def test_lists_with_a_tensor_for_each_device(shapes: list, dtype: torch.dtype) -> None:
    data = batches(shapes)
    layer = layer_of(shapes[0], dtype)
    for batch, exact in zip(data, expected_steps(data, of_all=True), strict=True):
        xs = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in batch.xs]
        layer.zero_grad()
        ys = layer(xs)
        assert type(ys) is list
        torch.autograd.backward(ys, [torch.tensor(dy, dtype=dtype) for dy in batch.dys])
        shared = layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var
        for rank, (x, y) in enumerate(zip(xs, ys, strict=True)):
            assert_step(Got(y, x.grad, *shared), exact, batch, rank)
        descend(layer)


@pytest.mark.parametrize("shapes", cases().values(), ids=cases().keys())
def test_ranks_with_a_tensor_each(shapes: list) -> None:
    data = batches(shapes)
    (exact, *_) = expected_steps(data, of_all=False)

    def body(rank: int, comm) -> list[Got]:
        layer = layer_of(shapes[rank], process_group=comm)
        return train(layer, [(data[0].xs[rank], data[0].dys[rank])])

    for rank, (got,) in enumerate(run_ranks(len(shapes), body)):
        assert_step(got, exact, data[0], rank)


def test_published_numbers_of_unequal_shards() -> None:
    layer = BatchNorm1d(1, dtype=torch.float64)
    xs = [torch.tensor(x, requires_grad=True) for x in UNEQUAL.x]
    ys = layer(xs)
    torch.autograd.backward(ys, [torch.tensor(dy) for dy in UNEQUAL.dy])
    assert printed_like(COUNT.y, torch.cat([y.detach().flatten() for y in ys])) == COUNT.y
    assert printed_like(COUNT.dx, torch.cat([x.grad.flatten() for x in xs])) == COUNT.dx
    of_all = sum(float(text) for text in COUNT.dweight.split())
    assert layer.weight.grad.item() == pytest.approx(of_all, rel=0, abs=1.01e-8)
    assert layer.bias.grad.item() == -0.5
    assert printed_like("0.42 1.97", [*layer.running_mean, *layer.running_var]) == "0.42 1.97"


@BOTH
def test_the_arguments_are_those_of_encoding_in_their_order(kind: type) -> None:
    assert positional(kind) == [
        ("num_features", inspect.Parameter.empty),
        ("eps", 1e-5),
        ("momentum", 0.1),
        ("affine", True),
    ]
    layer = kind(3, 1e-3, 0.2, False)
    assert (layer.num_features, layer.eps, layer.momentum, layer.affine) == (3, 1e-3, 0.2, False)
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "allowed", "words"),
    [(BatchNorm1d, (2, 3), "2D or 3D input"), (BatchNorm2d, (4,), "4D input")],
)
def test_the_dimensions_of_the_input(kind: type, allowed: tuple, words: str, training: bool):
    layer = kind(4).train(training)
    for dimensions in range(1, 6):
        x = torch.randn([3, 4, 2, 2, 2][:dimensions])
        if dimensions in allowed:
            assert layer(x).shape == layer([x, x])[1].shape == x.shape
            continue
        for refused in (x, [x]):
            with pytest.raises(ValueError, match=rf"^expected {words} \(got {dimensions}D input"):
                layer(refused)
    with pytest.raises(ValueError, match="expected 4 channels in dimension 1"):
        layer(torch.zeros([2, 3, 1, 1][: allowed[0]]))


@BOTH
@pytest.mark.parametrize("counts", [True, False])
def test_checkpoints_of_torch_and_back(kind: type, counts: bool) -> None:
    shape = (5, 4, 3, 2) if kind is BatchNorm2d else (5, 4, 3)
    plain = getattr(nn, kind.__name__)(4, dtype=torch.float64)
    plain(torch.randn(shape, dtype=torch.float64))
    nn.init.normal_(plain.weight)
    state = {name: value.numpy() for name, value in plain.state_dict().items()}
    if not counts:  # as checkpoints of before torch had it
        del state["num_batches_tracked"]
    layer = kind(4, dtype=torch.float64)
    layer.load_state_dict(state)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x), rtol=1e-13, atol=1e-13)
    back = type(plain)(4, dtype=torch.float64)
    back.load_state_dict(layer.state_dict())
    assert back.num_batches_tracked.item() == int(counts)
    torch.testing.assert_close(back.eval()(x), plain(x), rtol=0, atol=0)


@BOTH
def test_conversion_leaves_it_and_the_way_back_keeps_it(kind: type) -> None:
    model = nn.Sequential(kind(4), nn.Identity())
    layer, state = model[0], copy.deepcopy(model.state_dict())
    assert convert_sync_batchnorm(model)[0] is layer
    pickled = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    torch.testing.assert_close(pickled.state_dict(), state, rtol=0, atol=0)
    assert type(pickled[0]) is kind
    revert_sync_batchnorm(model)
    assert type(model[0]) is BatchNorm
    assert model[0].weight is layer.weight
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
