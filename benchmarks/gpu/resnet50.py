"""ResNet-50, in which every normalization is told whether ReLU follows it, and what is added."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor, nn

# Of so many channels, with or without ReLU. The module takes x and, at the end of a block, what is
# to be added before the ReLU.
Norm = Callable[[int, bool], nn.Module]


class Followed(nn.Module):
    """A normalization, then addition and ReLU, each an operation of its own and in place."""

    def __init__(self, norm: nn.Module, relu: bool) -> None:
        super().__init__()
        self.norm = norm
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        if residual is not None:
            y += residual
        result: Tensor = self.relu(y)
        return result


@dataclasses.dataclass(frozen=True)
class Size:
    pixels: int  # the height and width of an image
    width: int  # channels of the first convolution
    blocks: Sequence[int]  # of each stage


RESNET50 = Size(224, 64, (3, 4, 6, 3))
# As quick as a rehearsal on a CPU should be.
TINY = Size(32, 4, (1, 1))
CLASSES = 1000
EXPANSION = 4


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = _convolution(inputs, width, 1)
        self.norm1 = norm(width, True)
        self.conv2 = _convolution(width, width, 3, stride)
        self.norm2 = norm(width, True)
        self.conv3 = _convolution(width, outputs, 1)
        self.norm3 = norm(outputs, True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                _convolution(inputs, outputs, 1, stride), norm(outputs, False)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x))
        y = self.norm2(self.conv2(y))
        result: Tensor = self.norm3(self.conv3(y), self.shortcut(x))
        return result


class ResNet(nn.Module):
    def __init__(self, norm: Norm, size: Size = RESNET50) -> None:
        super().__init__()
        width = size.width
        self.conv = _convolution(3, width, 7, 2)
        self.norm = norm(width, True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages = []
        inputs = width
        for stage, blocks in enumerate(size.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_Bottleneck(inputs, width << stage, stride, norm))
                inputs = EXPANSION * width << stage
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool(self.norm(self.conv(images)))
        result: Tensor = self.head(self.stages(x).mean((2, 3)))
        return result
