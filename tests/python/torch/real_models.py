"""Models of other people, small inputs for them, and the training that is compared."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STEPS = 5
CLASSES = 4
SIZES = [2, 5]  # samples on each of two ranks

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RealModel:
    """How to make one, and the shapes of a sample and of its target."""

    make: Callable[[], nn.Module]
    sample: tuple[int, ...]
    target: tuple[int, ...] = ()

    def new(self) -> nn.Module:
        """The same float64 model in every process."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.make().double()

    def batches(self) -> list[Batch]:
        """The whole batch of each step, the same in every process."""
        generator = torch.Generator().manual_seed(2)
        samples = sum(SIZES)
        return [
            (
                torch.randn(samples, *self.sample, generator=generator, dtype=torch.float64),
                torch.randint(CLASSES, (samples, *self.target), generator=generator),
            )
            for _ in range(STEPS)
        ]


@contextmanager
def others_may_warn() -> Iterator[None]:
    """What a package warns of while it is imported is not about this project."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _efficientnet() -> nn.Module:
    """EfficientNet-B0: depthwise convolutions, squeeze and excitation; momentum 0.01, eps 1e-3."""
    with others_may_warn():
        from efficientnet_pytorch import EfficientNet

    # What is dropped at random could not be compared.
    model = EfficientNet.from_name(
        "efficientnet-b0",
        image_size=64,
        num_classes=CLASSES,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )
    model.set_swish(memory_efficient=False)  # the other cannot be exported
    return model


def _unet() -> nn.Module:
    """MONAI's 3-D U-Net with residual units, transposed convolutions and PReLU."""
    with others_may_warn():
        from monai.networks.nets import UNet

    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=CLASSES,
        channels=(4, 8, 16),
        strides=(2, 2),
        num_res_units=1,
        norm="batch",
    )


def _segresnet() -> nn.Module:
    """MONAI's SegResNet: the ReLU behind each normalization overwrites its output."""
    with others_may_warn():
        from monai.networks.nets import SegResNet

    return SegResNet(
        spatial_dims=3,
        init_filters=4,
        in_channels=1,
        out_channels=CLASSES,
        norm="batch",
        blocks_down=(1, 1, 2),
        blocks_up=(1, 1),
    )


_VOLUME = (8, 16, 12)
MODELS = {
    "efficientnet": RealModel(_efficientnet, (3, 64, 64)),
    "unet": RealModel(_unet, (1, *_VOLUME), _VOLUME),
    "segresnet": RealModel(_segresnet, (1, *_VOLUME), _VOLUME),
}


def train(
    model: nn.Module, batches: Sequence[Batch], mine: slice = slice(None), ranks: int = 1
) -> None:
    """SGD on the mean loss of the whole batch, of which this process holds mine."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for x, target in batches:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(model(x[mine]), target[mine], reduction="none")
        # DistributedDataParallel divides the sum of the gradients by the number of ranks.
        (losses.sum() * ranks / target.numel()).backward()
        optimizer.step()
