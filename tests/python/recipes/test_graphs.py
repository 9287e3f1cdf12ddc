"""PyTorch Geometric's batch normalizations on several ranks, and spconv's own container."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import spconv.pytorch as spconv
import torch
from thread_ranks import run_ranks
from torch import Tensor, nn
from torch_geometric.nn import MLP, BatchNorm, HeteroBatchNorm

import syncnorm
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

NODES = [6, 1, 0, 4]  # by rank
CHANNELS = 5
TYPES = 4  # of which the last does not occur, and the third on one rank only


def nodes(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, CHANNELS, generator=generator, dtype=torch.float64) * 2 + count


def types(count: int) -> Tensor:
    return torch.arange(count) % (3 if count == 6 else 2)


def step(layer: nn.Module, x: Tensor, *more: Tensor) -> list[Any]:
    """Return what a step leaves: output, gradient of x, those of the parameters, buffers."""
    x = x.clone().requires_grad_()
    y = layer(x, *more)
    (y.square() * torch.arange(1, CHANNELS + 1)).sum().backward()
    gradients = [parameter.grad.clone() for parameter in layer.parameters()]
    return [y.detach(), x.grad, gradients, [buffer.clone() for buffer in layer.buffers()]]


def check(layer: nn.Module, inputs: Sequence[tuple[Tensor, ...]], **options: Any) -> None:
    """Compare two steps of all ranks with those of the layer itself on the joined batch."""

    def steps(rank: int, communicator: syncnorm.Communicator) -> list[list[Any]]:
        twin = convert_sync_batchnorm(copy.deepcopy(layer), communicator, **options)
        return [step(twin, *inputs[rank]) for _ in range(2)]

    results = run_ranks(len(inputs), steps)
    joined = [torch.cat(parts) for parts in zip(*inputs, strict=True)]
    for number in range(2):
        y, dx, gradients, buffers = step(layer, *joined)
        of_ranks = [result[number] for result in results]
        torch.testing.assert_close(torch.cat([each[0] for each in of_ranks]), y)
        torch.testing.assert_close(torch.cat([each[1] for each in of_ranks]), dx)
        sums = [sum(each) for each in zip(*[each[2] for each in of_ranks], strict=True)]
        torch.testing.assert_close(sums, gradients)
        for each in of_ranks:
            torch.testing.assert_close(each[3], buffers)


@pytest.mark.parametrize("allow_single_element", [False, True])
def test_batch_norm_is_that_of_the_joined_batch(allow_single_element: bool) -> None:
    layer = BatchNorm(CHANNELS, allow_single_element=allow_single_element).double()
    nn.init.uniform_(layer.module.weight, 0.5, 2)
    check(layer, [(nodes(count),) for count in NODES])


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_hetero_batch_norm_is_that_of_the_joined_batch(
    momentum: float | None, affine: bool, tracked: bool
) -> None:
    options = {"momentum": momentum, "affine": affine, "track_running_stats": tracked}
    layer = HeteroBatchNorm(CHANNELS, TYPES, **options).double()
    if affine:
        nn.init.uniform_(layer.weight, 0.5, 2)
        nn.init.normal_(layer.bias)
    check(layer, [(nodes(count), types(count)) for count in NODES])


def test_evaluation_is_that_of_the_layers_themselves() -> None:
    model = nn.ModuleList(
        [BatchNorm(CHANNELS, allow_single_element=True), HeteroBatchNorm(CHANNELS, TYPES)]
    ).double()
    converted = convert_sync_batchnorm(copy.deepcopy(model))
    for count in NODES:
        for each in (model, converted):
            each.eval()
        x, type_vec = nodes(count), types(count)
        torch.testing.assert_close(converted[0](x), model[0](x), rtol=0, atol=0)
        torch.testing.assert_close(converted[1](x, type_vec), model[1](x, type_vec), rtol=0, atol=0)


def test_a_single_node_in_one_process() -> None:
    layer = BatchNorm(CHANNELS, allow_single_element=True).double()
    converted = convert_sync_batchnorm(copy.deepcopy(layer))
    torch.testing.assert_close(converted(nodes(1)), layer(nodes(1)), rtol=0, atol=0)


def test_a_network_of_pyg() -> None:
    mlp = MLP([CHANNELS, 8, CHANNELS], norm="batch_norm").double()
    check(mlp, [(nodes(count),) for count in NODES])


@pytest.mark.parametrize("layer", [BatchNorm, HeteroBatchNorm])
def test_compiled(layer: type[nn.Module]) -> None:
    torch._dynamo.reset()
    options = (TYPES,) if layer is HeteroBatchNorm else (1e-5, 0.1, True, True, True)
    more = (types(6),) if layer is HeteroBatchNorm else ()
    converted = convert_sync_batchnorm(layer(CHANNELS, *options).double())
    twin = copy.deepcopy(converted)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    for got, expected in zip(
        step(compiled, nodes(6), *more), step(twin, nodes(6), *more), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_copies_pickles_a_second_conversion_and_the_way_back() -> None:
    model = nn.ModuleList(
        [BatchNorm(CHANNELS, allow_single_element=True), HeteroBatchNorm(CHANNELS, TYPES)]
    )
    kinds = [type(each) for each in model.modules()]
    state = [set(vars(each)) for each in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_sync_batchnorm(model)
        names = [type(each).__name__ for each in model.modules()]
        assert names[1:4] == ["SyncBatchNorm", "SyncBatchNorm1d", "SyncHeteroBatchNorm"]
        convert_sync_batchnorm(model, timeout=5.0)
    assert model[0].module.timeout == model[1].timeout == 5.0
    assert model[1].layer_name == "1"
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(each) for each in copied.modules()] == [type(e) for e in model.modules()]
    revert_sync_batchnorm(model)
    assert [type(each) for each in model.modules()] == kinds
    assert [set(vars(each)) for each in model.modules()] == state


def test_hetero_batch_norm_has_no_other_options() -> None:
    layer = HeteroBatchNorm(CHANNELS, TYPES)
    with pytest.warns(UserWarning, match="HeteroBatchNorm.* has no option weighting"):
        convert_sync_batchnorm(layer, weighting="equal")
    assert type(layer) is HeteroBatchNorm


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(CHANNELS), spconv.SparseBatchNorm(CHANNELS)])
def test_a_rank_without_points_takes_part_in_a_container_of_spconv(layer: nn.Module) -> None:
    model = spconv.SparseSequential(layer, nn.ReLU()).double()

    def features(rank: int, communicator: syncnorm.Communicator) -> Tensor:
        twin = convert_sync_batchnorm(copy.deepcopy(model), communicator)
        x = nodes(NODES[rank])
        indices = torch.zeros(len(x), 4, dtype=torch.int32)
        y: Tensor = twin(spconv.SparseConvTensor(x, indices, [8, 8, 8], 1)).features
        return y

    x = torch.cat([nodes(count) for count in NODES])
    expected = nn.BatchNorm1d(CHANNELS).double()(x).relu()
    torch.testing.assert_close(torch.cat(run_ranks(len(NODES), features)), expected)
    kinds = [type(each) for each in model.modules()]
    assert any(isinstance(each, SyncBatchNorm) for each in convert_sync_batchnorm(model).modules())
    assert [type(each) for each in revert_sync_batchnorm(model).modules()] == kinds
