"""Trains one layer on batches of random size, and records state and resources."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from syncnorm.torch import SyncBatchNorm

CHANNELS = 6
LEARNING_RATE, WEIGHT_DECAY = 0.05, 0.01

_one_at_a_time = threading.Lock()  # reading /proc opens descriptors of this process


@dataclass(frozen=True)
class Shard:
    """The part of a batch that one rank trains on; x is (N, C, S), mask (N, S)."""

    x: Tensor
    mask: Tensor | None
    values: int  # of the whole batch
    training: bool


@dataclass
class Sample:
    """State and resources of a rank after `step` steps."""

    step: int
    seconds: float
    rss: int  # bytes
    descriptors: int
    threads: int
    loss: float  # result of train_step, summed over the steps since the last sample
    state: dict[str, np.ndarray] = field(default_factory=dict)


def make_layer(group: Any) -> SyncBatchNorm:
    """Return the layer under test: float64, with centering, and gradients summed over the ranks."""
    options = {"activation": "elu", "grad_reduction": "sum", "dtype": torch.float64}
    return SyncBatchNorm(CHANNELS, process_group=group, **options)


def shard_of(seed: int, step: int, rank: int, size: int, ranks: int) -> Shard:
    """Return this rank's part of the batch of a step.

    Args:
        size: Number of ranks that share the batch: `ranks`, or 1 for the whole batch.
        ranks: Number of ranks that the batch is divided over; the data do not depend on `size`.
    """
    generator = np.random.default_rng((seed, step))
    total = int(generator.choice((0, 1, 2, 3, 5, 8, 13, 21)))
    positions = int(generator.integers(1, 10))
    ends = np.sort(generator.integers(0, total + 1, ranks - 1)) if ranks > 1 else []
    bounds = [0, *map(int, ends), total]
    x = torch.from_numpy(generator.normal(1, 2, (total, CHANNELS, positions)))
    values, mask = x.numel(), None
    if generator.random() < 0.3:
        mask = torch.from_numpy(generator.random((total, positions)) < 0.8)
    training = bool(generator.random() >= 0.1)
    if size > 1:
        part = slice(bounds[rank], bounds[rank + 1])
        x, mask = x[part], None if mask is None else mask[part]
    return Shard(x, mask, values, training)


def train_step(layer: SyncBatchNorm, shard: Shard) -> float:
    """Train or evaluate on one batch; return this rank's part of the loss and of sum |dx|."""
    layer.train(shard.training)
    x = shard.x.requires_grad_(shard.training)
    with torch.set_grad_enabled(shard.training):
        y = layer(x, mask=shard.mask if shard.training else None)
        errors = (y - shard.x.detach().abs()) ** 2
        # Positions that do not count may be any number of standard deviations away.
        errors = errors if shard.mask is None else errors * shard.mask.unsqueeze(1)
        loss = errors.sum() / max(shard.values, 1)
    if not shard.training:
        return loss.item()
    loss.backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1 - LEARNING_RATE * WEIGHT_DECAY)
            parameter.sub_(LEARNING_RATE * parameter.grad)
            parameter.grad = None
    return loss.item() + x.grad.abs().sum().item()


def train(
    group: Any,
    *,
    rank: int,
    size: int,
    ranks: int,
    steps: int,
    every: int,
    seed: int,
    progress: Callable[[Sample], None] | None = None,
) -> list[Sample]:
    """Train for `steps` steps; return a sample for every `every` of them."""
    layer, samples, loss, start = make_layer(group), [], 0.0, time.monotonic()
    for step in range(1, steps + 1):
        loss += train_step(layer, shard_of(seed, step, rank, size, ranks))
        if step % every == 0:
            state = {name: value.numpy().copy() for name, value in layer.state_dict().items()}
            samples.append(Sample(step, time.monotonic() - start, *resources(), loss, state))
            loss = 0.0
            if progress is not None:
                progress(samples[-1])
    return samples


def resources() -> tuple[int, int, int]:
    """Return the resident set in bytes, and the numbers of open descriptors and threads."""
    with _one_at_a_time:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1  # that of the listing
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    return pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads
