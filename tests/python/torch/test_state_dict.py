"""State dicts go from torch's layers to ours and back, whatever the layer was made with."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

from syncnorm.torch import LazySyncBatchNorm, SyncBatchNorm

THEIRS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"momentum": None, "eps": 1e-3},
    {"affine": False},
    {"bias": False, "dtype": torch.float64},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


def trained(layer: nn.Module) -> nn.Module:
    """Numbers in parameters and buffers that no constructor makes."""
    with torch.no_grad():
        for tensor in [*layer.parameters(), *layer.buffers()]:
            tensor.copy_(torch.rand(tensor.shape) + 3)
    return layer


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("theirs", THEIRS)
def test_state_dicts_interchange(theirs: type[nn.Module], arguments: dict) -> None:
    source, target, back = (kind(5, **arguments) for kind in (SyncBatchNorm, theirs, SyncBatchNorm))
    target.load_state_dict(trained(source).state_dict(), strict=True)
    back.load_state_dict(target.state_dict(), strict=True)
    torch.testing.assert_close(back.state_dict(), source.state_dict(), rtol=0, atol=0)
    assert list(back.state_dict()) == list(target.state_dict())
    assert back.state_dict()._metadata == target.state_dict()._metadata


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, SyncBatchNorm])
def test_a_state_dict_from_before_num_batches_tracked_loads(layer: type[nn.Module]) -> None:
    old = trained(layer(5)).state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    ours = SyncBatchNorm(5)
    ours.load_state_dict(old, strict=True)
    assert ours.num_batches_tracked.item() == 0
    torch.testing.assert_close(ours.running_var, old["running_var"])


def test_a_state_dict_of_version_2_without_num_batches_tracked_is_refused() -> None:
    incomplete = SyncBatchNorm(5).state_dict()
    del incomplete["num_batches_tracked"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"num_batches_tracked"'):
        SyncBatchNorm(5).load_state_dict(incomplete, strict=True)


@pytest.mark.parametrize("tracking_source", [True, False])
def test_with_and_without_running_statistics_differ_as_in_torch(tracking_source: bool) -> None:
    found = []
    for kind in (nn.SyncBatchNorm, SyncBatchNorm):
        source = kind(5, track_running_stats=tracking_source)
        target = kind(5, track_running_stats=not tracking_source)
        keys = target.load_state_dict(source.state_dict(), strict=False)
        found.append((keys.missing_keys, keys.unexpected_keys))
        with pytest.raises(RuntimeError, match="running_mean"):
            target.load_state_dict(source.state_dict(), strict=True)
    assert found[1] == found[0]


def test_channels_must_agree() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        SyncBatchNorm(5).load_state_dict(nn.BatchNorm2d(4).state_dict())


@pytest.mark.parametrize("kind", [SyncBatchNorm, LazySyncBatchNorm])
def test_tensors_are_assigned_where_that_is_asked_for(kind: type[SyncBatchNorm]) -> None:
    source = trained(nn.BatchNorm2d(5))
    layer = SyncBatchNorm(5, device="meta") if kind is SyncBatchNorm else kind()
    layer.load_state_dict(source.state_dict(), strict=True, assign=True)
    assert layer.running_mean.data_ptr() == source.running_mean.data_ptr()
    x = torch.randn(3, 5, 2, 2)
    torch.testing.assert_close(layer.eval()(x), source.eval()(x))


def test_a_saved_state_dict_loads_with_weights_only() -> None:
    source = trained(SyncBatchNorm(5, activation="relu"))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    theirs = nn.BatchNorm2d(5)
    theirs.load_state_dict(torch.load(file, weights_only=True), strict=True)
    torch.testing.assert_close(theirs.state_dict(), source.state_dict(), rtol=0, atol=0)
