"""What every rank of test_desync_errors.py's worlds does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm.torch import SyncBatchNorm
from syncnorm.torch.groups.process_group import record_of
from syncnorm.torch.groups.resolve import resolve
from syncnorm.torch.ops import stream

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

TIMEOUT = 2.0


def layer_of(channels: int, name: str | None = None, **options: Any) -> SyncBatchNorm:
    return SyncBatchNorm(channels, dtype=torch.float64, name=name, **options)


def batch(channels: int, samples: int = 3) -> Tensor:
    return torch.randn(samples, channels, 2, dtype=torch.float64, requires_grad=True)


def refusal_of(call: Callable[[], Any]) -> str:
    """Return what call raises; the group is usable afterwards."""
    error = error_of(call)
    layer_of(2, "afterwards")(batch(2))
    return error


@scenario
def no_timeout(rank: int, _: int) -> Any:
    """Return the threads and whether the store has this rank's position. Runs first."""
    record_of(dist.group.WORLD).patience = 0.0
    layer_of(4, process_group=dist.new_group())(batch(4)).sum().backward()
    time.sleep(0.2)
    threads = [thread.name for thread in threading.enumerate()]
    return threads, dist.group.WORLD.get_group_store().check([f"syncnorm/where/{rank}"])


@scenario
def different_layers(rank: int, _: int) -> Any:
    layer_of(4, "first")(batch(4))
    name, channels = [("left", 4), ("right", 6), ("right", 6)][rank]
    return refusal_of(lambda: layer_of(channels, name)(batch(channels, 1 + rank)))


@scenario
def different_backward_passes(rank: int, _: int) -> Any:
    ys = [layer_of(4, "small")(batch(4)), layer_of(6, "large")(batch(6))]
    return refusal_of(ys[0 if rank == 0 else 1].sum().backward)


@scenario
def layers_that_swap_places(rank: int, _: int) -> Any:
    """Return the error and the batches counted, of layers with and without names."""
    found = []
    for names in (("one", "two"), (None, None)):
        group = dist.new_group()
        if rank == 0:  # a layer that other ranks do not have is no difference
            layer_of(4, process_group=group)
        layers = [layer_of(4, name, process_group=group) for name in names]
        order = layers if rank == 0 else layers[::-1]
        error = refusal_of(lambda order=order: [layer(batch(4)) for layer in order])
        found.append((error, [int(layer.num_batches_tracked) for layer in order]))
    return found


@scenario
def two_passes_of_one_layer(rank: int, _: int) -> Any:
    layer = layer_of(4, "bn")
    ys = [layer(batch(4)) for _ in range(2)]
    return refusal_of(ys[0 if rank == 0 else 1].sum().backward)


@scenario
def more_channels_than_a_frame_holds(rank: int, _: int) -> Any:
    channels = [4, 1500, 2000][rank]
    return refusal_of(lambda: layer_of(channels)(batch(channels)))


@scenario
def lengths_that_are_alike_modulo_a_prime(rank: int, _: int) -> Any:
    channels = [2000, 67521, 67521][rank]
    return refusal_of(lambda: layer_of(channels, centering="off")(batch(channels)))


@scenario
def many_channels(rank: int, size: int) -> Any:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3 * size, 1500, generator=generator, dtype=torch.float64)
    mine = x[3 * rank : 3 * rank + 3].requires_grad_()
    y = layer_of(1500)(mine)
    return y, torch.autograd.grad(y.square().sum(), mine)[0]


@scenario
def different_options(rank: int, _: int) -> Any:
    eps = 1e-3 if rank == 1 else 1e-5
    return refusal_of(lambda: layer_of(4, "layer", eps=eps)(batch(4)))


@scenario
def forward_against_backward(rank: int, _: int) -> Any:
    layer = layer_of(4, "layer", process_group=dist.new_group())
    y = layer(batch(4))
    return error_of(y.sum().backward if rank == 0 else lambda: layer(batch(4)))


@scenario
def in_a_sub_group(rank: int, _: int) -> Any:
    group = dist.new_group([1, 2])
    channels = 2 + rank
    if rank == 0:
        return None
    return error_of(lambda: layer_of(channels, process_group=group)(batch(channels)))


@scenario
def a_rank_that_comes_too_late(rank: int, _: int) -> Any:
    layer = layer_of(4, "bn", process_group=dist.new_group(), timeout=TIMEOUT)
    y = layer(batch(4))
    store = dist.group.WORLD.get_group_store()
    if rank == 2:
        while not store.check(["rank 0 gave up", "rank 1 gave up"]):
            time.sleep(0.05)
    first = error_of(y.sum().backward)
    store.set(f"rank {rank} gave up", "")
    return first, error_of(lambda: layer(batch(4)))


@scenario
def one_call_more_on_a_rank(rank: int, _: int) -> Any:
    """The others continue with a barrier."""
    layer = layer_of(4, "bn", process_group=dist.new_group(), timeout=TIMEOUT)
    layer(batch(4))
    error = error_of(lambda: layer(batch(4))) if rank == 0 else None
    dist.barrier()
    return error


def _raise(error: Exception) -> None:
    raise error


@scenario
def what_a_device_reports_later(_: int, __: int) -> Any:
    """With a stand-in for the status word of a CUDA device."""
    layer_of(4, "bn")(batch(4))
    x, word = mock.Mock(is_cuda=True, device=torch.device("cuda:0")), mock.Mock()
    word.take.return_value = True
    with mock.patch.dict(stream._status_words, {0: word}):
        text = stream.take_disagreement(x)
        assert text is not None
        return error_of(lambda: _raise(resolve(None).disagreement(text)))
