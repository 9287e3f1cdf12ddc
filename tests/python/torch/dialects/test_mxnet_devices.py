"""mxnet's layer on several devices: as a list of tensors, and as a thread for each device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from mxnet_formulas import Operator
from ported_layers import SYSTEMS
from ported_steps import (
    CHANNELS,
    SIZES,
    Dialect,
    Step,
    compare,
    exact_steps,
    put,
    started,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from syncnorm.comm import thread_group
from syncnorm.torch import thread_replicas
from syncnorm.torch.mxnet import SyncBatchNorm

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def list_step(layer: SyncBatchNorm, step: Step) -> list[dict[str, Tensor | None]]:
    """As ported_steps.run_step, for all ranks; the gradients of parameters exist once."""
    put(layer.gamma, step.before[0])
    put(layer.beta, step.before[1])
    layer.zero_grad()
    xs = [torch.from_numpy(x).requires_grad_() for x in step.xs]
    ys = layer(xs)
    assert type(ys) is list
    torch.autograd.backward(ys, [torch.from_numpy(dy) for dy in step.dys])
    for got, each in zip((layer.gamma.grad, layer.beta.grad), step.gradients[1:], strict=True):
        torch.testing.assert_close(got, torch.from_numpy(sum(each)), **EXACT)
    buffers = {"mean": layer.running_mean.clone(), "var": layer.running_var.clone()}
    return [{"y": y, "dx": x.grad, **buffers} for x, y in zip(xs, ys, strict=True)]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", SIZES)
def test_a_list_is_a_batch_on_several_devices(kind: str, count: int) -> None:
    dialect = Dialect(SYSTEMS["mxnet"].names, SyncBatchNorm, Operator)
    steps = exact_steps(dialect, SIZES[kind][:count])
    layer = SyncBatchNorm(CHANNELS, num_devices=count, dtype=torch.float64)
    started(layer, dialect, steps[0])
    for step in steps:
        for rank, result in enumerate(list_step(layer, step)):
            compare(step, rank, result)


@pytest.mark.parametrize("training", [True, False])
def test_a_list_with_the_running_statistics(training: bool) -> None:
    layer = SyncBatchNorm(3, num_devices=7, use_global_stats=True).train(training)
    layer.running_mean.normal_()
    xs = [torch.randn(n, 3) for n in (2, 0, 4)]
    torch.testing.assert_close(layer(tuple(xs)), [layer(x) for x in xs], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("data", "group", "message"),
    [
        (torch.zeros(2, 3), None, r"got 3, but 1 rank\(s\) in the group"),
        (torch.zeros(2, 3), 2, r"got 3, but 2 rank\(s\) in the group"),
        ([torch.zeros(2, 3)] * 2, None, r"got 3, but 2 tensor\(s\) in the list.*thread_replicas"),
    ],
)
def test_another_number_of_devices_is_refused(data: Any, group: Any, message: str) -> None:
    communicator = None if group is None else thread_group(group)[0]
    layer = SyncBatchNorm(3, 3, process_group=communicator)
    with pytest.raises(ValueError, match=rf"num_devices: {message}"):
        layer(data)
    assert len(layer.eval()(data)) == 2


@pytest.mark.parametrize("in_channels", [0, 3])
def test_what_is_no_batch_is_refused(in_channels: int) -> None:
    layer = SyncBatchNorm(in_channels)
    with pytest.raises(ValueError, match="got no tensor"):
        layer([])
    with pytest.raises(ValueError, match="at least 2D input"):
        layer([torch.zeros(3)])
    with pytest.raises(ValueError, match="expected 3 channels"):
        layer([torch.zeros(2, 3), torch.zeros(2, 4)])


class Network(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), SyncBatchNorm(channels)
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).relu().mean((2, 3)))

    def on_devices(self, xs: list[Tensor]) -> list[Tensor]:
        ys = self.norm([self.conv(x) for x in xs])
        return [self.linear(y.relu().mean((2, 3))) for y in ys]


@pytest.mark.parametrize("in_channels", [0, 4])
@pytest.mark.parametrize("count", [2, 3])
def test_a_thread_for_each_device_is_like_a_list(count: int, in_channels: int) -> None:
    network = Network(in_channels).double()
    replicas = thread_replicas(network, ["cpu"] * count)
    xs = [torch.randn(n, 2, 5, 5, dtype=torch.float64) for n in (2, 5, 1)[:count]]

    def train(replica: nn.Module, x: Tensor) -> list[Tensor]:
        outputs = [replica(x) for _ in range(2)]
        outputs[0].pow(3).sum().backward()
        outputs[1].pow(2).sum().backward()
        return outputs

    with ThreadPoolExecutor(count) as pool:
        outputs = list(pool.map(train, replicas, xs))
    expected = [network.on_devices(xs) for _ in range(2)]
    sum(y.pow(3).sum() for y in expected[0]).backward()
    sum(y.pow(2).sum() for y in expected[1]).backward()
    torch.testing.assert_close(list(zip(*outputs, strict=True)), list(map(tuple, expected)))
    for name, parameter in network.named_parameters():
        total = sum(replica.get_parameter(name).grad for replica in replicas)
        torch.testing.assert_close(total, parameter.grad, **EXACT)
    for replica in replicas:
        assert replica.norm.gamma is not network.norm.gamma
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(replica.get_buffer(name), buffer, **EXACT)


def test_threads_with_the_declared_number_of_devices() -> None:
    network = nn.Sequential(SyncBatchNorm(3, num_devices=2))
    with ThreadPoolExecutor(2) as pool:
        ys = list(pool.map(lambda r: r(torch.zeros(2, 3)), thread_replicas(network, ["cpu"] * 2)))
    assert [y.shape for y in ys] == [(2, 3)] * 2
    with pytest.raises(ValueError, match=r"got 2, but 3 rank\(s\)"):
        thread_replicas(network, ["cpu"] * 3)[0](torch.zeros(2, 3))


def test_one_device_is_alone() -> None:
    (replica,) = thread_replicas(Network(4), ["cpu"])
    replica(torch.randn(2, 2, 5, 5)).sum().backward()
    assert replica.norm.running_mean.any()


@pytest.mark.parametrize("devices", [[], ["cpu", "cuda:0"], ["meta"], ["cuda"]])
def test_devices_that_are_refused(devices: list[str]) -> None:
    with pytest.raises(ValueError, match=r"devices: got .*, expected one or more, all 'cpu' or"):
        thread_replicas(Network(4), devices)


def test_a_network_without_a_synchronized_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="module: got a Sequential without a synchronized layer"):
        thread_replicas(nn.Sequential(nn.BatchNorm1d(3)), ["cpu"])


def test_hooks_of_the_network_are_in_its_copies() -> None:
    network, seen = Network(4), []
    handle: RemovableHandle = network.norm.register_forward_hook(lambda *_: seen.append(1))
    (replica,) = thread_replicas(network, ["cpu"])
    handle.remove()
    replica(torch.randn(2, 2, 5, 5))
    assert seen == [1]
