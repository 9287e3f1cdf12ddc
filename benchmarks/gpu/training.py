"""Whole training steps of ResNet-50 on random images: time and memory, by the normalization."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from syncnorm.torch import SyncBatchNorm

from .cases import LAYOUTS
from .layers import ALONE, BATCH_NORM, EXCHANGING, LAYERS, exchanging, group_of_one
from .meter import Meter, meter_for
from .resnet50 import CLASSES, Followed, Norm, ResNet, Size

AUTOCAST = "bfloat16 autocast"
DTYPES = ("float32", AUTOCAST)
IMAGES = (32, 256)
FUSED, FUSED_EXCHANGING = f"{ALONE}, fused", f"{EXCHANGING}, fused"
WARM_STEPS = 3
STEPS = 3  # in a row, of one timing
# Losses of the first step that differ by more are not those of the same network.
DISAGREEMENT = 0.05


def _followed(layer: Callable[[int], nn.Module]) -> Norm:
    return lambda channels, relu: Followed(layer(channels), relu)


def _fused(layer: Callable[..., nn.Module]) -> Norm:
    return lambda channels, relu: layer(channels, activation="relu" if relu else "identity")


VARIANTS: dict[str, Norm] = {
    **{name: _followed(layer) for name, layer in LAYERS.items()},
    FUSED: _fused(SyncBatchNorm),
    FUSED_EXCHANGING: _fused(exchanging),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    images: int
    dtype: str
    layout: str

    @property
    def name(self) -> str:
        order = "NHWC" if self.layout == "channels_last" else "NCHW"
        return f"{self.images} images, {self.dtype}, {order}"


@dataclasses.dataclass
class Training:
    """Of one variant: samples are seconds of a step; error: why there are none."""

    setting: Setting
    variant: str
    samples: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int | None = None
    loss: float | None = None  # of the first step
    error: str | None = None

    @property
    def key(self) -> tuple[Setting, str]:
        return self.setting, self.variant

    @property
    def seconds(self) -> float:
        return statistics.median(self.samples)


def settings(images: Sequence[int]) -> list[Setting]:
    return [Setting(*each) for each in itertools.product(images, DTYPES, LAYOUTS)]


class Trainer:
    """A network with its optimizer; every variant begins with the same parameters."""

    def __init__(self, norm: Norm, size: Size, setting: Setting, images: Tensor) -> None:
        torch.manual_seed(0)
        self._images = images
        self._labels = torch.arange(len(images), device=images.device) % CLASSES
        self._autocast = setting.dtype == AUTOCAST
        model = ResNet(norm, size).to(images.device)
        self.model = model.to(memory_format=getattr(torch, _memory_format(setting)))
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def step(self) -> Tensor:
        kind = self._images.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self._autocast):
            loss = functional.cross_entropy(self.model(self._images), self._labels)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def nbytes(self) -> int:
        """Of parameters, buffers, the optimizer's state and the images."""
        states = (value for state in self._optimizer.state.values() for value in state.values())
        tensors = (*self.model.state_dict().values(), self._images, *states)
        return sum(each.nbytes for each in tensors if isinstance(each, Tensor))


def _memory_format(setting: Setting) -> str:
    return "channels_last" if setting.layout == "channels_last" else "contiguous_format"


def measure_training(
    chosen: Sequence[Setting], size: Size, device: str, rounds: int, deadline: float
) -> Iterator[Training]:
    """deadline: of time.monotonic(), from which on nothing new is begun."""
    with group_of_one(device), _convolutions_chosen_by_time():
        for number, setting in enumerate(chosen):
            if time.monotonic() > deadline:
                left_out = "; ".join(each.name for each in chosen[number:])
                print(f"NOT MEASURED for lack of time: {left_out}", flush=True)
                return
            yield from _measured(setting, size, device, rounds, deadline)
            if device == "cuda":
                torch.cuda.empty_cache()


@contextmanager
def _convolutions_chosen_by_time() -> Iterator[None]:
    """cuDNN tries its algorithms in the first step, and keeps the quickest for all variants."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _measured(
    setting: Setting, size: Size, device: str, rounds: int, deadline: float
) -> list[Training]:
    generator = torch.Generator(device).manual_seed(1)
    shape = (setting.images, 3, size.pixels, size.pixels)
    images = torch.randn(shape, generator=generator, device=device)
    images = images.contiguous(memory_format=getattr(torch, _memory_format(setting)))
    meter = meter_for(device)
    found = [Training(setting, variant) for variant in VARIANTS]
    trainers: dict[int, Trainer] = {}
    for number, training in enumerate(found):
        trainer = _started(training, size, images, meter)
        if trainer is not None:
            trainers[number] = trainer
    check_losses(found)
    for done in range(rounds):
        if done >= 2 and time.monotonic() > deadline:
            break
        for number in _rotated(list(trainers), done):
            found[number].samples.append(meter.seconds(trainers[number].step, STEPS))
    for training in found:
        print(f"{setting.name}: {training.variant}: {_told(training)}", flush=True)
    return found


def _started(training: Training, size: Size, images: Tensor, meter: Meter) -> Trainer | None:
    """After some steps, with loss and memory; None where it fails, and training says why."""
    try:
        trainer = Trainer(VARIANTS[training.variant], size, training.setting, images)
        training.loss = float(trainer.step())
        for _ in range(WARM_STEPS):
            trainer.step()
        beyond = meter.peak_bytes(trainer.step)
        training.peak_bytes = None if beyond is None else trainer.nbytes() + beyond
    except RuntimeError as error:
        training.error = str(error).partition("\n")[0]
        return None
    return trainer


def check_losses(found: Sequence[Training]) -> None:
    """Raise RuntimeError where two variants do not compute the same."""
    losses = {training.variant: training.loss for training in found if training.loss is not None}
    expected = losses.get(BATCH_NORM)
    if expected is None:
        return
    for variant, loss in losses.items():
        if not abs(loss - expected) <= DISAGREEMENT * abs(expected):  # nor NaN
            raise RuntimeError(
                f"{found[0].setting.name}: the first loss with '{variant}' is {loss:.4f}, and with"
                f" '{BATCH_NORM}' {expected:.4f}; expected at most {DISAGREEMENT:.0%} between them"
            )


def _rotated(numbers: list[int], by: int) -> list[int]:
    start = by % len(numbers) if numbers else 0
    return numbers[start:] + numbers[:start]


def _told(training: Training) -> str:
    if training.error is not None:
        return f"no time: {training.error}"
    memory = f", {training.peak_bytes / 1e9:.2f} GB" if training.peak_bytes is not None else ""
    return f"{1e3 * training.seconds:.1f} ms a step{memory}"
