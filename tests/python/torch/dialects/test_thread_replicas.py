"""Copies of a network for threads that are the ranks of one group."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from syncnorm import Communicator
from syncnorm.torch import SyncBatchNorm, encoding, megengine, mmcv, paddle, thread_replicas

EXACT = {"rtol": 1e-12, "atol": 1e-12}
# The layers that on equal shards do as torch's own does on the whole batch.
LAYERS: dict[str, Callable[..., Any]] = {
    "torch": SyncBatchNorm,
    "mmcv": mmcv.SyncBatchNorm,
    "encoding": encoding.BatchNorm1d,
    "megengine": megengine.SyncBatchNorm,
}


def network(norm: Callable[..., Any]) -> nn.Sequential:
    shared = norm(4, dtype=torch.float64)
    layers = [nn.Linear(3, 4), shared, nn.ReLU(), nn.Sequential(nn.Linear(4, 4)), shared]
    return nn.Sequential(*layers).double()


def flat(model: nn.Module) -> dict[str, Tensor]:
    """The state with vectors (C,) where megengine has (1, C, 1, 1)."""
    return {n: v.reshape(-1) if v.dim() == 4 else v for n, v in model.state_dict().items()}


def step(models: list[nn.Module], xs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
    """A step of training with a thread for each model; every model takes it by all gradients."""

    def train(model: nn.Module, x: Tensor, dy: Tensor) -> Tensor:
        model.zero_grad()
        y = model(x)
        y.backward(dy)
        return y.detach()

    with ThreadPoolExecutor(len(models)) as pool:
        ys = list(pool.map(train, models, xs, dys))
    with torch.no_grad():
        for same in zip(*(model.parameters() for model in models), strict=True):
            total = torch.stack([parameter.grad for parameter in same]).sum(0)
            for parameter in same:
                parameter.sub_(0.1 * total)
    return ys


@pytest.mark.parametrize(("kind", "count"), [(kind, 2) for kind in LAYERS] + [("torch", 3)])
def test_they_train_as_one_big_batch(kind: str, count: int) -> None:
    original = network(LAYERS[kind])
    replicas = thread_replicas(original, ["cpu"] * count)
    plain = network(nn.BatchNorm1d)
    plain.load_state_dict(flat(original), strict=False)
    before = copy.deepcopy(original.state_dict())
    for _ in range(3):
        x, dy = torch.randn(5 * count, 3).double(), torch.randn(5 * count, 4).double()
        (expected,) = step([plain], [x], [dy])
        ys = step(replicas, list(x.chunk(count)), list(dy.chunk(count)))
        torch.testing.assert_close(torch.cat(ys), expected, **EXACT)
    for replica in replicas:
        state = flat(replica)
        expected = {name: plain.state_dict()[name] for name in state}
        torch.testing.assert_close(state, expected, **EXACT)
    torch.testing.assert_close(original.state_dict(), before, rtol=0, atol=0)


def test_unequal_parts_of_a_batch() -> None:
    replicas = thread_replicas(network(SyncBatchNorm), ["cpu"] * 3)
    plain = network(nn.BatchNorm1d)
    plain.load_state_dict(replicas[0].state_dict())
    x, dy = torch.randn(7, 3).double(), torch.randn(7, 4).double()
    (expected,) = step([plain], [x], [dy])
    ys = step(replicas, list(x.split([4, 0, 3])), list(dy.split([4, 0, 3])))
    torch.testing.assert_close(torch.cat(ys), expected, **EXACT)
    for replica in replicas:
        torch.testing.assert_close(replica.state_dict(), plain.state_dict(), **EXACT)


def test_parameters_are_copies_and_the_layers_are_ranks() -> None:
    original = nn.Sequential(network(SyncBatchNorm), paddle.SyncBatchNorm(4))
    replicas = thread_replicas(original, ["cpu", torch.device("cpu")])
    tensors = [[*model.parameters(), *model.buffers()] for model in (original, *replicas)]
    storages = [tensor.data_ptr() for of_model in tensors for tensor in of_model]
    assert len(set(storages)) == len(storages)
    torch.testing.assert_close(tensors[1], tensors[0], rtol=0, atol=0)
    for rank, replica in enumerate(replicas):
        groups = [replica[0][1].process_group, replica[1].process_group]
        assert groups[0] is groups[1]
        assert isinstance(groups[0], Communicator)
        assert (groups[0].rank, groups[0].size) == (rank, 2)
        assert replica[0][1] is replica[0][4]
    assert original[0][1].process_group is None


def test_a_list_of_ranks_is_replaced() -> None:
    (replica,) = thread_replicas(nn.Sequential(SyncBatchNorm(4, process_group=[0, 1])), ["cpu"])
    assert replica(torch.randn(3, 4)).shape == (3, 4)


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SyncBatchNorm(4)])
def test_a_network_without_a_synchronized_layer_is_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="got a Sequential without a synchronized layer, expected"):
        thread_replicas(nn.Sequential(layer), ["cpu", "cpu"])


@pytest.mark.parametrize(
    "devices", [[], ["cpu", "cuda:0"], ["cuda"], ["cuda:0", "cuda"], ["meta"], ["cpu", 0]]
)
def test_devices_that_are_no_group_are_refused(devices: list) -> None:
    got = [f"cuda:{device}" if isinstance(device, int) else device for device in devices]
    with pytest.raises(ValueError, match="expected one or more, all 'cpu' or all CUDA") as error:
        thread_replicas(nn.Sequential(SyncBatchNorm(4)), devices)
    assert str(error.value).startswith(f"devices: got {got}, ")


def test_cuda_devices_make_a_group_over_nccl() -> None:
    # Not an attribute of the package: syncnorm.torch has the function under that name.
    module = sys.modules["syncnorm.torch.groups.thread_replicas"]
    with (
        mock.patch.object(module, "nccl_group", side_effect=KeyError) as nccl_group,
        pytest.raises(KeyError),
    ):
        thread_replicas(nn.Sequential(SyncBatchNorm(4)), [0, "cuda:2", torch.device("cuda", 1)])
    nccl_group.assert_called_once_with([0, 2, 1])


def test_a_thread_that_does_not_come_is_waited_for_as_long_as_was_said() -> None:
    first, _ = thread_replicas(nn.Sequential(SyncBatchNorm(4)), ["cpu", "cpu"], timeout=0.05)
    with pytest.raises(TimeoutError, match=r"waited 0\.05 s"):
        first(torch.randn(3, 4))
