"""What every rank of test_distributed.py's worlds does."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import training_runs as runs
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm import _core
from syncnorm.comm import from_callback
from syncnorm.torch import (
    SyncBatchNorm,
    convert_sync_batchnorm,
    nccl_communicator,
    sync_batch_norm,
)

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def layer_of(channels: int, **options: Any) -> SyncBatchNorm:
    return SyncBatchNorm(channels, dtype=torch.float64, **options)


def shard(rank: int, shape: tuple[int, ...] = (3, 4)) -> Tensor:
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def train_with_ddp(
    network: Callable[[torch.dtype], nn.Module],
    shape: tuple[int, ...],
    sizes: list[int],
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, Tensor]:
    model = convert_sync_batchnorm(network(dtype))
    model = model.to(memory_format=memory_format)
    parallel = DistributedDataParallel(model)
    data = runs.batches(shape, sum(sizes), dtype)
    # DistributedDataParallel divides the sum of the gradients by the number of ranks.
    mine = runs.part(sizes, dist.get_rank())
    scale = float(len(sizes))
    runs.train(parallel, data, mine, scale=scale, memory_format=memory_format)
    return model.state_dict()


@scenario
def linear_equal(_: int, size: int) -> Any:
    return train_with_ddp(runs.linear_network, (8,), runs.EQUAL[size], torch.float32)


@scenario
def linear_unequal(_: int, size: int) -> Any:
    return train_with_ddp(runs.linear_network, (8,), runs.UNEQUAL[size], torch.float32)


@scenario
def linear_with_an_empty_rank(_: int, size: int) -> Any:
    return train_with_ddp(runs.linear_network, (8,), runs.WITH_EMPTY[size], torch.float32)


@scenario
def convolutional_float64(_: int, size: int) -> Any:
    return train_with_ddp(runs.convolutional_network, (3, 9, 9), runs.UNEQUAL[size], torch.float64)


@scenario
def convolutional_float64_channels_last(_: int, size: int) -> Any:
    return train_with_ddp(
        runs.convolutional_network,
        (3, 9, 9),
        runs.EQUAL[size],
        torch.float64,
        torch.channels_last,
    )


@scenario
def convolutional_float32(_: int, size: int) -> Any:
    return train_with_ddp(runs.convolutional_network, (3, 9, 9), runs.UNEQUAL[size], torch.float32)


@scenario
def channels_last_stays(rank: int, _: int) -> Any:
    x = shard(rank, (2, 4, 3, 3)).to(memory_format=torch.channels_last).requires_grad_()
    y = layer_of(4)(x)
    y.sum().backward()
    return [t.is_contiguous(memory_format=torch.channels_last) for t in (y, x.grad)]


@scenario
def float32_statistics(rank: int, _: int) -> Any:
    """Held to the bit on every rank, whatever the dtypes of the inputs are."""
    layer = SyncBatchNorm(4)
    for step in range(3):
        layer(shard(10 * step + rank, (3 + rank, 4)).to([torch.float32, torch.bfloat16][rank % 2]))
    return layer.state_dict()


@scenario
def all_ranks_empty(_: int, __: int) -> Any:
    layer = layer_of(4)
    x = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    return layer.state_dict(), layer.weight.grad


@scenario
def only_the_first_rank_evaluates(rank: int, _: int) -> Any:
    layer = layer_of(4)
    layer(shard(rank))
    untracked = layer_of(4, track_running_stats=False)
    if rank == 0:
        layer.eval()(shard(rank))
        return untracked.eval()(shard(rank))
    return None


@scenario
def only_the_first_rank_needs_gradients(rank: int, _: int) -> Any:
    x = shard(rank).requires_grad_(rank == 0)
    layer = layer_of(4, affine=False)
    y = layer(x)
    y.backward(shard(50 + rank))
    return x.grad


@scenario
def different_options(rank: int, _: int) -> Any:
    layer = layer_of(4, eps=1e-5 if rank == 0 else 1e-3)
    error = error_of(lambda: layer(shard(rank)))
    return error, layer.state_dict(), layer_of(4)(shard(rank))


@scenario
def different_order_of_backward(rank: int, _: int) -> Any:
    x = shard(rank).requires_grad_()
    losses = [layer_of(4)(x).sum(), layer_of(4)(x).sum()]
    if rank == 0:
        losses.reverse()
    errors = [error_of(loss.backward) for loss in losses]
    return errors, layer_of(4)(shard(rank))


@scenario
def pairs(rank: int, size: int) -> Any:
    """Neighbours of two form a group each; the first rank is in no group of its own."""
    groups = [dist.new_group([first, first + 1]) for first in range(0, size, 2)]
    mine = groups[rank // 2]
    layer = layer_of(4, process_group=mine)
    y = layer(shard(rank))
    copied = copy.deepcopy(layer)
    assert copied.process_group is mine
    return y, copied(shard(rank)), layer.running_var


@scenario
def not_a_member(rank: int, _: int) -> Any:
    only_first = dist.new_group([0])
    layer = layer_of(4, process_group=only_first)
    if rank == 0:
        return layer(shard(rank))
    return error_of(lambda: layer(shard(rank)))


@scenario
def no_backend_for_the_device(rank: int, _: int) -> Any:
    layer = layer_of(4, process_group=dist.new_group(backend="cuda:gloo"))
    return error_of(lambda: layer(shard(rank)))


@scenario
def residual_mask_and_activation(rank: int, _: int) -> Any:
    leaves = [shard(rank, (2, 4, 5)), shard(20 + rank, (2, 4, 5))]
    leaves += [shard(30, (4,)), shard(31, (4,))]
    x, residual, weight, bias = (leaf.requires_grad_() for leaf in leaves)
    y = sync_batch_norm(
        x,
        weight=weight,
        bias=bias,
        training=True,
        residual=residual,
        mask=shard(40 + rank, (2, 5)) > -0.5,
        activation="leaky_relu",
        weighting="equal",
        grad_reduction="sum",
    )
    y.backward(shard(50 + rank, (2, 4, 5)))
    return y, x.grad, residual.grad, weight.grad, bias.grad


@scenario
def callback_communicator_over_torch(rank: int, size: int) -> Any:
    def add(src: memoryview, dst: memoryview) -> None:
        total = torch.frombuffer(bytearray(src), dtype=torch.float64)
        dist.all_reduce(total)
        dst[:] = memoryview(total.numpy())

    comm = from_callback(rank, size, add)
    layer = layer_of(4, process_group=comm)
    x = shard(rank).requires_grad_()
    y = layer(x)
    y.backward(shard(50 + rank))
    return y, x.grad


@scenario
def nccl_communicator_without_a_device(rank: int, _: int) -> Any:
    if _core.capabilities()["cuda_devices"]:
        return None
    return error_of(lambda: nccl_communicator(device=rank, init_timeout=30.0))


@scenario
def nccl_ids_of_world_and_pairs(rank: int, size: int) -> Any:
    """What the creation of a communicator is given, for groups whose ids are random."""
    pairs = [dist.new_group([first, first + 1]) for first in range(0, size, 2)]
    with mock.patch.multiple(
        _core,
        nccl_unique_id=lambda: os.urandom(128),
        nccl_communicator=lambda id, *place, **options: [id.hex(), list(place), options],
    ):
        return [
            nccl_communicator(None, f"cuda:{rank}"),
            nccl_communicator(pairs[rank // 2], rank, max_ctas=2),
        ]
