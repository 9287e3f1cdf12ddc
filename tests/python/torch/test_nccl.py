"""syncnorm's own NCCL communicators over what torch.distributed carries."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from syncnorm import _core
from syncnorm.comm import nccl_from_store, thread_group
from syncnorm.torch import nccl_communicator


def test_without_a_process_group() -> None:
    with pytest.raises(ValueError, match=r"^process_group: .*init_process_group"):
        nccl_communicator()


@pytest.fixture(name="alone")
def default_group_of_one_rank(tmp_path: Path):
    """A gloo world of one, and a creation that only tells on which device it would be."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    with mock.patch.multiple(
        _core, nccl_unique_id=lambda: bytes(128), nccl_communicator=lambda *given, **_: given[1:]
    ):
        yield
    dist.destroy_process_group()


@pytest.mark.parametrize("device", ["cuda:3", 3, torch.device("cuda", 3)], ids=repr)
def test_the_device_is_the_named_one(alone: None, device: object) -> None:
    assert nccl_communicator(device=device) == (0, 1, 3)


@pytest.mark.parametrize("device", [None, "cuda"])
def test_the_current_device_without_a_number(alone: None, device: object) -> None:
    current = torch.cuda.current_device() if torch.cuda.is_available() else 0
    assert nccl_communicator(device=device) == (0, 1, current)


def test_a_device_that_is_no_cuda_device(alone: None) -> None:
    with pytest.raises(ValueError, match=r"^device: got cpu, expected a CUDA device"):
        nccl_communicator(device="cpu")


def test_what_is_no_group(alone: None) -> None:
    with pytest.raises(TypeError, match=r"^process_group: got str"):
        nccl_communicator("world")
    with pytest.raises(ValueError, match="this rank is not in the group"):
        nccl_communicator(dist.GroupMember.NON_GROUP_MEMBER)
    with (
        thread_group(1)[0] as comm,
        pytest.raises(TypeError, match=r"got a syncnorm\.Communicator"),
    ):
        nccl_communicator(comm)


def test_torch_s_stores_carry_ids() -> None:
    store = dist.HashStore()
    with (
        mock.patch.multiple(
            _core,
            nccl_unique_id=lambda: os.urandom(128),
            nccl_communicator=lambda *given, **_: given,
        ),
        ThreadPoolExecutor(2) as pool,
    ):
        for _ in range(2):
            pair = list(pool.map(lambda rank: nccl_from_store(store, rank, 2, rank), range(2)))
            assert pair[0][0] == pair[1][0]
            assert [given[1:] for given in pair] == [(0, 2, 0), (1, 2, 1)]
