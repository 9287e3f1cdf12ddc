"""Ranks that fork: what the children may do with the layers and groups of their parent."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from scenarios_desync import batch, layer_of
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from worlds import Scenario

from support.scenarios import error_of, scenario_of

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)


def in_child(call: Callable[[], Any]) -> Any:
    """Return what call returns in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(call(), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pickle.load(pipe)
    os.waitpid(child, 0)
    return result


@scenario
def forked(rank: int, _: int) -> Any:
    layer, unused = layer_of(4, "bn"), dist.new_group()
    layer(batch(4))
    errors = [
        in_child(lambda: error_of(lambda: layer(batch(4)))),
        in_child(lambda: error_of(lambda: layer_of(4, process_group=unused)(batch(4)))),
        in_child(lambda: error_of(lambda: layer.eval()(batch(4)).sum().backward())),
        in_child(lambda: error_of(lambda: layer_of(4, process_group=[rank])(batch(4)))),
    ]
    return *errors, error_of(lambda: layer(batch(4)).sum().backward())


class Evaluated(Dataset[Tensor]):
    """Items that an evaluated layer computes."""

    def __init__(self) -> None:
        self.layer = layer_of(4).eval()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, _: int) -> Tensor:
        return self.layer(torch.ones(1, 4, dtype=torch.float64)).detach()[0]


@scenario
def loader(_: int, __: int) -> Any:
    layer = layer_of(4)
    shapes = []
    for values in DataLoader(Evaluated(), 2, num_workers=1, multiprocessing_context="fork"):
        layer(values)
        shapes.append(list(values.shape))
    return shapes
