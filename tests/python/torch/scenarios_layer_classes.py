"""What every rank of the worlds of test_layer_classes.py and test_host_work.py does."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import training_runs as runs
from torch.nn.parallel import DistributedDataParallel
from worlds import Scenario

import syncnorm
from support.scenarios import scenario_of
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

PACKAGE = f"{Path(syncnorm.__file__).resolve().parent}/"


@scenario
def ddp_of_a_converted_model(rank: int, _: int) -> Any:
    model = convert_sync_batchnorm(runs.convolutional_network(torch.float64))
    sizes = runs.UNEQUAL[2]
    data = runs.batches((3, 9, 9), sum(sizes), torch.float64)
    runs.train(DistributedDataParallel(model), data, runs.part(sizes, rank), scale=2.0)
    return [type(layer).__name__ for layer in model], model.state_dict()


def frames_of(call: Callable[[], object]) -> Counter[str]:
    """Count the Python frames of syncnorm's functions that a call enters in this thread.

    A backward pass on the CPU runs in the thread that calls it.
    """
    frames: Counter[str] = Counter()

    def count(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            file = str(Path(frame.f_code.co_filename).resolve())
            if file.startswith(PACKAGE):
                frames[f"{file.removeprefix(PACKAGE)}:{frame.f_code.co_name}"] += 1

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return frames


@scenario
def frames_of_a_training_step(_: int, __: int) -> Any:
    layer = SyncBatchNorm(8)
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    dy = torch.randn(2, 8, 4, 4)

    def step() -> None:
        layer(x).backward(dy)

    for _ in range(2):
        step()
    return frames_of(step)
