"""One training run, as a rank of a group sees it."""

from __future__ import annotations

import dataclasses
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .data import Digits, batches, shard
from .messages import Finished, Message, Point, Progress
from .network import build_network
from .settings import Run, Settings

State = dict[str, torch.Tensor]
_SIGN_OF_LIFE = 0.5  # seconds between two messages to the screen


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run happens: a rank of a group, or a process of its own."""

    rank: int
    ranks: int
    device: torch.device


def train(
    run: Run, settings: Settings, digits: Digits, place: Place, tell: Callable[[Message], None]
) -> dict[int, State]:
    """Train one network; returns its state after each of the run's snapshot steps."""
    return _Training(run, settings, digits, place, tell).all_steps()


class _Training:
    def __init__(
        self,
        run: Run,
        settings: Settings,
        digits: Digits,
        place: Place,
        tell: Callable[[Message], None],
    ) -> None:
        self._run, self._settings, self._place, self._tell = run, settings, place, tell
        dtype = getattr(torch, run.dtype)
        self._images = torch.from_numpy(digits.train_images).to(place.device, dtype)
        self._labels = torch.from_numpy(digits.train_labels).to(place.device)
        self._test_images = torch.from_numpy(digits.test_images).to(place.device, dtype)
        self._test_labels = torch.from_numpy(digits.test_labels).to(place.device)
        self._network = build_network(run.norm, settings.seed, dtype, place.device)
        self._trained = self._network if run.single else _distributed(self._network)
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=settings.learning_rate, momentum=settings.momentum
        )
        self._loss_sum = torch.zeros((), device=place.device, dtype=torch.float64)
        self._points: list[Point] = []
        self._seconds: list[float] = []
        self._told_at = 0.0

    def all_steps(self) -> dict[int, State]:
        run, snapshots = self._run, {}
        self._trained.train()
        for step, samples in enumerate(self._samples(), start=1):
            self._timed_step(samples)
            if step in run.snapshots:
                snapshots[step] = {k: v.clone() for k, v in self._network.state_dict().items()}
            new_point = run.is_point(step)
            if new_point:
                self._add_point(step)
            self._report(step, new_point)
        if self._place.rank == 0:
            median = statistics.median(self._seconds)
            self._tell(Finished(run.name, run.title, run.dtype, self._points, median))
        return snapshots

    def _samples(self) -> Iterator[torch.Tensor]:
        whole, seed = self._settings.whole_batch, self._settings.seed
        for batch in batches(len(self._images), whole, self._run.steps, seed):
            samples = torch.from_numpy(shard(batch, self._place.rank, self._place.ranks))
            yield samples.to(self._place.device)

    def _timed_step(self, samples: torch.Tensor) -> None:
        images, labels = self._images[samples], self._labels[samples]
        start = time.perf_counter()
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self._trained(images), labels)
        torch.autograd.backward(loss)
        self._optimizer.step()
        if self._place.device.type == "cuda":
            torch.cuda.synchronize(self._place.device)
        self._seconds.append(time.perf_counter() - start)
        self._loss_sum += loss.detach()

    def _add_point(self, step: int) -> None:
        """Every rank takes part: the loss is that of the whole batch."""
        if not self._run.single:
            dist.all_reduce(self._loss_sum)
        steps = step - (self._points[-1].step if self._points else 0)
        loss = self._loss_sum.item() / (steps * self._place.ranks)
        self._loss_sum.zero_()
        accuracy = self._test_accuracy() if self._place.rank == 0 else float("nan")
        self._points.append(Point(step, loss, accuracy))

    @torch.no_grad()
    def _test_accuracy(self) -> float:
        """With the running statistics of this rank."""
        self._network.eval()
        right = self._network(self._test_images).argmax(dim=1) == self._test_labels
        self._network.train()
        return float(right.double().mean())

    def _report(self, step: int, new_point: bool) -> None:
        now = time.perf_counter()
        if self._place.rank != 0 or not (new_point or now - self._told_at > _SIGN_OF_LIFE):
            return
        self._told_at = now
        run, median = self._run, statistics.median(self._seconds[-200:])
        latest = self._points[-1] if self._points else None
        self._tell(Progress(run.name, run.title, step, run.steps, median, latest, new_point))


def _distributed(network: nn.Module) -> DistributedDataParallel:
    """No broadcast of buffers: local BatchNorm keeps its own, syncnorm has the same everywhere."""
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    recent = "forward_sync_buffers" in parameters  # the other name is deprecated since then
    option = "forward_sync_buffers" if recent else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    return DistributedDataParallel(network, **options)
