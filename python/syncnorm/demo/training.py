"""Train the network once, on one rank or in a single process."""

from __future__ import annotations

import dataclasses
import inspect
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .config import DemoConfig
from .data import Digits, batches, shard
from .differences import State
from .messages import CurvePoint, Message, Progress, RunResult
from .network import build_network
from .run_plan import Run

_PROGRESS_SECONDS = 0.5  # between two progress messages


@dataclasses.dataclass(frozen=True)
class RankInfo:
    """The rank and world size of a run, 0 and 1 in a single process, and the rank's device."""

    rank: int
    world_size: int
    device: torch.device


class Training:
    """One training run. Rank 0 sends progress messages and the result.

    Args:
        run: The run.
        config: The demo's configuration.
        digits: The data set.
        rank_info: The place of this process in the run.
        send: Sends a message to the parent process.
    """

    def __init__(
        self,
        run: Run,
        config: DemoConfig,
        digits: Digits,
        rank_info: RankInfo,
        send: Callable[[Message], None],
    ) -> None:
        self._run, self._config, self._send = run, config, send
        self._rank, self._world_size = rank_info.rank, rank_info.world_size
        self._device = rank_info.device
        dtype = getattr(torch, run.dtype)
        self._images = torch.from_numpy(digits.train_images).to(self._device, dtype)
        self._labels = torch.from_numpy(digits.train_labels).to(self._device)
        self._test_images = torch.from_numpy(digits.test_images).to(self._device, dtype)
        self._test_labels = torch.from_numpy(digits.test_labels).to(self._device)
        self._network = build_network(run.norm, config.seed, dtype, self._device)
        self._parallel = self._network if run.single else _data_parallel(self._network)
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=config.learning_rate, momentum=config.momentum
        )
        self._loss_sum = torch.zeros((), device=self._device, dtype=torch.float64)
        self._points: list[CurvePoint] = []
        self._seconds: list[float] = []
        self._last_progress = 0.0

    def run_steps(self) -> dict[int, State]:
        """Train; return the network's state after each of the run's snapshot steps."""
        run, snapshots = self._run, {}
        self._parallel.train()
        for step, samples in enumerate(self._samples(), start=1):
            self._timed_step(samples)
            if step in run.snapshots:
                snapshots[step] = {k: v.clone() for k, v in self._network.state_dict().items()}
            new_point = run.is_point(step)
            if new_point:
                self._add_point(step)
            self._send_progress(step, new_point)
        if self._rank == 0:
            median = statistics.median(self._seconds)
            self._send(RunResult(run.name, run.title, run.dtype, self._points, median))
        return snapshots

    def _samples(self) -> Iterator[torch.Tensor]:
        """Yield this rank's sample indices of every step."""
        whole, seed = self._config.whole_batch, self._config.seed
        for batch in batches(len(self._images), whole, self._run.steps, seed):
            samples = torch.from_numpy(shard(batch, self._rank, self._world_size))
            yield samples.to(self._device)

    def _timed_step(self, samples: torch.Tensor) -> None:
        images, labels = self._images[samples], self._labels[samples]
        start = time.perf_counter()
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self._parallel(images), labels)
        torch.autograd.backward(loss)
        self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds.append(time.perf_counter() - start)
        self._loss_sum += loss.detach()

    def _add_point(self, step: int) -> None:
        """Add a point of the curves; all ranks must call this, because it all-reduces the loss."""
        if not self._run.single:
            dist.all_reduce(self._loss_sum)
        steps = step - (self._points[-1].step if self._points else 0)
        loss = self._loss_sum.item() / (steps * self._world_size)
        self._loss_sum.zero_()
        accuracy = self._test_accuracy() if self._rank == 0 else float("nan")
        self._points.append(CurvePoint(step, loss, accuracy))

    @torch.no_grad()
    def _test_accuracy(self) -> float:
        """Return the test accuracy with this rank's running statistics."""
        self._network.eval()
        correct = self._network(self._test_images).argmax(dim=1) == self._test_labels
        self._network.train()
        return float(correct.double().mean())

    def _send_progress(self, step: int, new_point: bool) -> None:
        now = time.perf_counter()
        if self._rank != 0 or not (new_point or now - self._last_progress > _PROGRESS_SECONDS):
            return
        self._last_progress = now
        run, median = self._run, statistics.median(self._seconds[-200:])
        latest = self._points[-1] if self._points else None
        self._send(Progress(run.name, run.title, step, run.steps, median, latest, new_point))


def _data_parallel(network: nn.Module) -> DistributedDataParallel:
    """Wrap `network` in DDP without broadcasting buffers.

    Local BatchNorm keeps the running statistics of its rank; those of syncnorm are the same on all
    ranks.
    """
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    # forward_sync_buffers replaces broadcast_buffers, which is then deprecated.
    if "forward_sync_buffers" in parameters:
        return DistributedDataParallel(network, forward_sync_buffers=False)
    return DistributedDataParallel(network, broadcast_buffers=False)
