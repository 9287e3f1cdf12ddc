"""mmcv's SyncBatchNorm besides its numbers: arguments, attributes, copies, the way back."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
import torch.distributed as dist
from thread_ranks import run_ranks
from torch import Tensor, nn

import syncnorm.torch
from support.signatures import positional
from syncnorm.comm import thread_group
from syncnorm.torch import BatchNorm, mmcv
from syncnorm.torch.mmcv import SyncBatchNorm


def used(**options: object) -> SyncBatchNorm:
    """A layer with numbers that no constructor makes."""
    layer = SyncBatchNorm(4, dtype=torch.float64, **options)
    layer(3 * torch.randn(8, 4, 2, dtype=torch.float64) + 1)
    return layer


def test_the_arguments_are_those_of_mmcv_in_their_order() -> None:
    assert positional(SyncBatchNorm) == [
        ("num_features", inspect.Parameter.empty),
        ("eps", 1e-5),
        ("momentum", 0.1),
        ("affine", True),
        ("track_running_stats", True),
        ("group", None),
        ("stats_mode", "default"),
    ]
    layer = SyncBatchNorm(3, 1e-3, None, False, False, None, "N")
    assert (layer.num_features, layer.eps, layer.momentum) == (3, 1e-3, None)
    assert (layer.affine, layer.track_running_stats, layer.stats_mode) == (False, False, "N")


def test_parameters_start_as_in_mmcv_and_are_named_so() -> None:
    layer = SyncBatchNorm(2000)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "weight": (2000,),
        "bias": (2000,),
        "running_mean": (2000,),
        "running_var": (2000,),
        "num_batches_tracked": (),
    }
    weight = layer.weight.detach()
    assert 0 <= weight.min() < 0.01
    assert 0.99 < weight.max() <= 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.03)
    assert not layer.bias.any()
    torch.manual_seed(1)
    layer.reset_parameters()
    torch.manual_seed(1)
    assert layer.weight.equal(torch.rand(2000))


@pytest.mark.parametrize("error", [ValueError, AssertionError])
@pytest.mark.parametrize("mode", ["n", "mean", None])
def test_another_stats_mode_is_refused_as_by_mmcv(mode: str, error: type[Exception]) -> None:
    message = f'"stats_mode" only accepts "default" and "N", got "{mode}"'
    with pytest.raises(error, match=message):
        SyncBatchNorm(4, stats_mode=mode)
    layer = SyncBatchNorm(4)
    with pytest.raises(error, match=message):
        layer.stats_mode = mode
    assert layer.stats_mode == "default"


def test_stats_mode_may_be_set() -> None:
    xs = [torch.randn(5, 4), torch.randn(1, 4)]

    def body(rank: int, comm) -> list[Tensor]:
        layer = SyncBatchNorm(4, group=comm, affine=False)
        default = layer(xs[rank])
        layer.stats_mode = "N"
        assert layer.stats_mode == "N"
        return [default, layer(xs[rank])]

    default, by_samples = (torch.cat(ys) for ys in zip(*run_ranks(2, body), strict=True))
    torch.testing.assert_close(by_samples.mean(0), torch.zeros(4))
    # In "default" both means are as far from 0, on either side.
    torch.testing.assert_close(default[:5].mean(0), -default[5])


def test_the_group_is_the_default_one_or_none() -> None:
    layer = SyncBatchNorm(4)
    assert layer.group is dist.group.WORLD is None
    assert layer.group_size == 1


def test_a_given_group_and_its_size() -> None:
    comm = thread_group(3)[1]
    layer = SyncBatchNorm(4, group=comm)
    assert layer.group is layer.process_group is comm
    assert layer.group_size == 3


def test_the_representation_is_that_of_mmcv() -> None:
    assert repr(SyncBatchNorm(4, momentum=None, stats_mode="N")) == (
        "SyncBatchNorm(4, eps=1e-05, momentum=None, affine=True, track_running_stats=True,"
        " stats_mode=N)"
    )


def test_too_few_dimensions_and_other_channels_are_refused() -> None:
    layer = SyncBatchNorm(4)
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        layer(torch.zeros(4))
    with pytest.raises(ValueError, match="expected 4 channels in dimension 1"):
        layer(torch.zeros(2, 3))


@pytest.mark.parametrize("training", [True, False])
def test_without_affine(training: bool) -> None:
    layer = SyncBatchNorm(4, affine=False, dtype=torch.float64).train(training)
    assert list(layer.parameters()) == []
    plain = nn.BatchNorm1d(4, affine=False, dtype=torch.float64).train(training)
    x = torch.randn(6, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.state_dict(), plain.state_dict())


@pytest.mark.parametrize("options", [{}, {"stats_mode": "N", "momentum": None}, {"affine": False}])
def test_the_way_back(options: dict) -> None:
    revert = mmcv.revert_sync_batchnorm
    assert revert is syncnorm.torch.revert_sync_batchnorm
    model = nn.Sequential(nn.Identity(), used(**options))
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    synchronized = copy.deepcopy(model)
    assert revert(model) is model
    assert type(model[1]) is BatchNorm
    assert all(new is old for new, old in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    for training in (True, False):
        x = torch.randn(5, 4, 3, dtype=torch.float64)
        torch.testing.assert_close(model.train(training)(x), synchronized.train(training)(x))
    torch.testing.assert_close(model.state_dict(), synchronized.state_dict())


def test_it_is_not_converted_again() -> None:
    model = nn.Sequential(SyncBatchNorm(4), nn.BatchNorm1d(4))
    mmcvs = model[0]
    syncnorm.torch.convert_sync_batchnorm(model)
    assert model[0] is mmcvs
    assert type(model[1]) is syncnorm.torch.SyncBatchNorm1d


def test_batch_norms_become_mmcv_s_and_go_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4, 1e-3, 0.2))
    nn.init.normal_(model[0].weight)
    state = copy.deepcopy(model.state_dict())
    SyncBatchNorm.convert_sync_batchnorm(model)
    assert type(model[0]) is SyncBatchNorm
    assert (model[0].eps, model[0].momentum, model[0].stats_mode) == (1e-3, 0.2, "default")
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    mmcv.revert_sync_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm2d
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def by_pickle(layer: SyncBatchNorm) -> SyncBatchNorm:
    return pickle.loads(pickle.dumps(layer))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, by_pickle])
def test_copies_are_alike(copied) -> None:
    layer = used(stats_mode="N")
    other = copied(layer)
    assert type(other) is SyncBatchNorm
    assert repr(other) == repr(layer)
    torch.testing.assert_close(other.state_dict(), layer.state_dict(), rtol=0, atol=0)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(other.eval()(x), layer.eval()(x), rtol=0, atol=0)


def test_a_deep_copy_talks_in_the_same_group() -> None:
    xs = [torch.randn(n, 4) for n in (5, 1)]

    def body(rank: int, comm) -> list[Tensor]:
        layer = SyncBatchNorm(4, group=comm)
        return [each(xs[rank]).detach() for each in (layer, copy.deepcopy(layer))]

    for first, second in run_ranks(2, body):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("stats_mode", ["default", "N"])
def test_checkpoints_of_torch_and_back(stats_mode: str) -> None:
    layer, plain = used(stats_mode=stats_mode), nn.BatchNorm1d(4, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    again = SyncBatchNorm(4, stats_mode=stats_mode, dtype=torch.float64)
    again.load_state_dict({name: value.numpy() for name, value in plain.state_dict().items()})
    torch.testing.assert_close(again.state_dict(), layer.state_dict(), rtol=0, atol=0)
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(again.eval()(x), plain.eval()(x))
