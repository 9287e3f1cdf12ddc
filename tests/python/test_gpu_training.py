"""The benchmark's ResNet-50 and its layers: the same network with every normalization."""

from __future__ import annotations

import collections
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import cases, graphs, host, layers, meter, resnet50, training  # noqa: E402
from benchmarks.gpu.layers import BATCH_NORM, EXCHANGING, TORCH_SYNC  # noqa: E402
from benchmarks.gpu.resnet50 import TINY, ResNet, Size  # noqa: E402
from benchmarks.gpu.training import VARIANTS, Setting, Trainer, Training  # noqa: E402

# All blocks, and few channels.
NARROW = Size(64, 4, resnet50.RESNET50.blocks)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_network_is_resnet50():
    shapes: collections.Counter[tuple[int, ...]] = collections.Counter()

    def norm(channels: int, relu: bool) -> nn.Module:
        followed = resnet50.Followed(nn.BatchNorm2d(channels), relu)
        followed.norm.register_forward_hook(lambda _, inputs, __: shapes.update([inputs[0].shape]))
        return followed

    with torch.device("meta"):
        model = ResNet(norm)
        assert model(torch.empty(32, 3, 224, 224)).shape == (32, 1000)
    # As in the paper's table and in torchvision.
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert shapes == cases.resnet50(32)


def loss_and_gradients(variant: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = ResNet(VARIANTS[variant], NARROW).double()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    loss = functional.cross_entropy(model(images), torch.arange(4))
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def test_every_variant_computes_the_same_in_float64():
    with layers.group_of_one("cpu"):
        expected = loss_and_gradients(BATCH_NORM)
        for variant in VARIANTS:
            found = loss_and_gradients(variant)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10, msg=variant)


def test_layers_go_the_way_of_several_ranks(monkeypatch):
    sums = []
    case = cases.Case("tiny", (4, 3, 5, 5), "float32", "channels_first")
    with layers.group_of_one("cpu"):
        group = torch.distributed.ProcessGroup
        for name in ("allreduce", "allgather"):
            usual = getattr(group, name)
            monkeypatch.setattr(
                group, name, lambda *args, call=usual, **kw: sums.append(call) or call(*args, **kw)
            )
        exchanged = {}
        for name, layer in layers.LAYERS.items():
            layers.LayerSubject(layer, case, "cpu").step()
            exchanged[name] = len(sums)
            sums.clear()
    # One exchange forward and one backward, where they are not left out.
    assert exchanged == {name: 2 * (name in {TORCH_SYNC, EXCHANGING}) for name in layers.LAYERS}
    assert not torch.distributed.is_initialized()


def test_a_rehearsal_measures_every_variant_in_every_setting():
    chosen = training.settings([2])
    assert len(chosen) == 4
    found = list(training.measure_training(chosen, TINY, "cpu", 1, time.monotonic() + 600))
    assert [each.key for each in found] == [(s, variant) for s in chosen for variant in VARIANTS]
    for each in found:
        assert each.error is None
        assert len(each.samples) == 1
        assert each.loss > 0


def test_a_variant_that_fails_says_why_and_the_others_go_on(monkeypatch):
    def fails(channels: int, relu: bool) -> nn.Module:
        raise RuntimeError("out of memory\nand more")

    kept = (BATCH_NORM, training.FUSED)
    monkeypatch.setattr(training, "VARIANTS", {name: VARIANTS[name] for name in kept})
    monkeypatch.setitem(training.VARIANTS, training.FUSED, fails)
    setting = training.settings([2])[:1]
    found = list(training.measure_training(setting, TINY, "cpu", 1, time.monotonic() + 600))
    assert [(each.error, len(each.samples)) for each in found] == [(None, 1), ("out of memory", 0)]


def test_without_time_nothing_is_begun(capsys):
    chosen = training.settings([2])
    assert not list(training.measure_training(chosen, TINY, "cpu", 1, time.monotonic() - 1))
    assert "NOT MEASURED for lack of time: 2 images, float32, NCHW;" in capsys.readouterr().out


def test_variants_that_compute_something_else_end_the_training():
    setting = Setting(2, "float32", "channels_first")
    found = [Training(setting, BATCH_NORM, loss=7.0), Training(setting, "wrong", loss=float("nan"))]
    with pytest.raises(RuntimeError, match=r"with 'wrong' is nan, and with .* 7\.0000"):
        training.check_losses(found)


def test_a_trainer_knows_what_it_holds():
    setting = Setting(2, "float32", "channels_last")
    images = torch.zeros(2, 3, 32, 32)
    trainer = Trainer(VARIANTS[BATCH_NORM], TINY, setting, images)
    trainer.step()
    parameters = sum(each.nbytes for each in trainer.model.parameters())
    buffers = sum(each.nbytes for each in trainer.model.buffers())
    assert trainer.nbytes() == 2 * parameters + buffers + images.nbytes  # with the momentum
    assert all(each.grad is None for each in trainer.model.parameters())


def test_host_and_graphs_have_every_layer():
    for each in host.measure_host("cpu"):
        assert {*layers.LAYERS, "syncnorm.numpy", "one call", "F.batch_norm"} <= set(each.seconds)
        assert all(seconds > 0 for seconds in each.seconds.values())
    shapes = graphs.SHAPES[:1]
    found = graphs.measure_graphs("cpu", shapes, 1)
    assert {each.layer for each in found} == set(layers.LAYERS)
    assert found[-1].layer == TORCH_SYNC


def test_a_capture_that_fails_is_told(monkeypatch):
    def fails(step: object, device: str) -> object:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "captured", fails)
    for each in graphs.measure_graphs("cpu", graphs.SHAPES[:1], 1):
        assert each.replay is None
        assert "not permitted" in each.error


def test_calls_in_a_row_are_divided():
    calls = []
    assert meter.meter_for("cpu").seconds(lambda: calls.append(time.sleep(0.01)), 3) > 0.009
    assert len(calls) == 3
