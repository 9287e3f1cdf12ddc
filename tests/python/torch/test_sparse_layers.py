"""Layers for sparse tensors are synchronized, and a rank without points takes part."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import sparse_stand_ins as sparse
import torch
from shard_reference import normalize_shards
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm
from syncnorm.torch import BatchNorm, SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm

POINTS = [6, 0, 3]  # by rank


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in sparse.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


class Case(NamedTuple):
    layer: Callable[[], nn.Module]
    tensor: Callable[[Tensor, Tensor], Any]
    features: Callable[[Any], Tensor]


CASES = {
    "MinkowskiBatchNorm": Case(
        lambda: sparse.MinkowskiBatchNorm(4),
        lambda features, _: sparse.MinkowskiTensor(features, "key"),
        lambda y: y.F,
    ),
    "MinkowskiSyncBatchNorm": Case(
        lambda: sparse.MinkowskiSyncBatchNorm(4),
        lambda features, _: sparse.MinkowskiTensor(features, "key"),
        lambda y: y.F,
    ),
    "torchsparse": Case(
        lambda: sparse.TorchsparseBatchNorm(4),
        lambda features, indices: sparse.TorchsparseTensor(indices, features),
        lambda y: y.feats,
    ),
    "spconv": Case(lambda: sparse.SparseBatchNorm(4), sparse.SpconvTensor, lambda y: y.features),
    "spconv synchronized": Case(
        lambda: sparse.SparseSyncBatchNorm(4), sparse.SpconvTensor, lambda y: y.features
    ),
    "SparseBatchNorm in a container": Case(
        lambda: sparse.SparseSequential(sparse.SparseBatchNorm(4), nn.Identity()),
        sparse.SpconvTensor,
        lambda y: y.features,
    ),
    "BatchNorm1d in a container": Case(
        lambda: sparse.SparseSequential(nn.BatchNorm1d(4), nn.Identity()),
        sparse.SpconvTensor,
        lambda y: y.features,
    ),
    "SyncBatchNorm in a container": Case(
        lambda: sparse.SparseSequential(SyncBatchNorm(4)), sparse.SpconvTensor, lambda y: y.features
    ),
    "BatchNorm1d in a container of mmcv": Case(
        lambda: sparse.MmcvSparseSequential(nn.BatchNorm1d(4), nn.Identity()),
        sparse.MmcvTensor,
        lambda y: y.features,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_rank_takes_part(case: Case) -> None:
    model = case.layer()
    keys = list(model.state_dict())
    xs = [sparse.points(count) for count in POINTS]

    def step(rank: int, communicator: syncnorm.Communicator) -> tuple[Tensor, Tensor]:
        twin = convert_sync_batchnorm(copy.deepcopy(model), communicator)
        assert list(twin.state_dict()) == keys
        x = xs[rank][0].clone().requires_grad_()
        y = case.features(twin(case.tensor(x, xs[rank][1])))
        y.square().sum().backward()
        layer = next(each for each in twin.modules() if isinstance(each, SyncBatchNorm))
        return y.detach(), x.grad, layer.running_var

    leaves = [features.double().requires_grad_() for features, _ in xs]
    expected = normalize_shards(leaves)
    gradients = torch.autograd.grad(sum(y.square().sum() for y in expected.ys), leaves)
    count = sum(POINTS)
    var = (0.9 + 0.1 * expected.var * count / (count - 1)).detach().float()
    for got, y, gradient in zip(run_ranks(3, step), expected.ys, gradients, strict=True):
        torch.testing.assert_close(got[0], y.float().detach())
        torch.testing.assert_close(got[1], gradient.float(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got[2], var)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_copies_pickles_a_second_conversion_and_the_way_back(case: Case) -> None:
    model = case.layer()
    kinds = [type(each) for each in model.modules()]
    one_rank = {
        nn.SyncBatchNorm: BatchNorm,
        SyncBatchNorm: BatchNorm,
        sparse.SparseSyncBatchNorm: sparse.SparseBatchNorm,
    }
    features, indices = sparse.points(5)
    first = convert_sync_batchnorm(model)
    names = [type(each).__name__ for each in first.modules()]
    pickled = [pickle.loads(pickle.dumps(each)) for each in first.modules() if is_sync(each)]
    assert [type(each) for each in pickled] == [type(e) for e in first.modules() if is_sync(e)]
    second = convert_sync_batchnorm(copy.deepcopy(first), activation="relu")
    assert [type(each).__name__ for each in second.modules()] == names
    y = case.features(first(case.tensor(features.clone(), indices)))
    torch.testing.assert_close(
        case.features(second(case.tensor(features.clone(), indices))), y.relu()
    )
    state = vars(first).keys()
    revert_sync_batchnorm(first)
    assert [type(each) for each in first.modules()] == [one_rank.get(kind, kind) for kind in kinds]
    assert vars(first).keys() <= state
    if not any(kind in one_rank for kind in kinds):
        torch.testing.assert_close(case.features(first(case.tensor(features, indices))), y)


def is_sync(layer: nn.Module) -> bool:
    return isinstance(layer, SyncBatchNorm)


def test_a_lazy_layer_in_a_container_takes_its_channels_from_the_features() -> None:
    features, indices = sparse.points(5)
    container = sparse.SparseSequential(nn.LazyBatchNorm1d())
    convert_sync_batchnorm(container)
    y = container(sparse.SpconvTensor(features, indices)).features
    torch.testing.assert_close(y, nn.BatchNorm1d(4)(features))


def test_a_layer_of_a_user_with_a_forward_over_features() -> None:
    """As docs/pytorch-models.md says."""

    class Voxels(nn.BatchNorm1d):
        def forward(self, input: Any) -> Any:
            return input.replace_feature(super().forward(input.features))

    class SyncVoxels(Voxels, syncnorm.torch.SyncBatchNorm1d):
        pass

    syncnorm.torch.register_conversion(
        Voxels, lambda old, **options: SyncVoxels(old.num_features, device="meta", **options)
    )
    features, indices = sparse.points(5)
    layer, expected = Voxels(4), nn.BatchNorm1d(4)(features)
    assert type(convert_sync_batchnorm(layer)) is SyncVoxels
    y = layer(sparse.SpconvTensor(features, indices)).features
    torch.testing.assert_close(y, expected)
    assert type(revert_sync_batchnorm(layer)) is Voxels
