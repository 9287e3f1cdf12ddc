"""What is measured: shapes, dtypes, layouts, and the bytes that each must move."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from syncnorm.bench.cases import Inputs

Shape = tuple[int, ...]

# Channels, height and width of ResNet-50's 53 batch normalizations at 224x224: how many of each.
RESNET50 = {
    (64, 112, 112): 1,
    (64, 56, 56): 6,
    (256, 56, 56): 4,
    (128, 56, 56): 1,
    (128, 28, 28): 7,
    (512, 28, 28): 5,
    (256, 28, 28): 1,
    (256, 14, 14): 11,
    (1024, 14, 14): 7,
    (512, 14, 14): 1,
    (512, 7, 7): 5,
    (2048, 7, 7): 4,
}
# A segmentation network, a volume, the output of a linear layer.
OTHERS: tuple[Shape, ...] = ((4, 256, 128, 128), (2, 32, 64, 64, 64), (8192, 4096))
# 200 MB and more in every dtype.
LARGE: tuple[Shape, ...] = ((128, 256, 56, 56), (32768, 4096))
# Few, for each goes through Nsight Compute several times: planes large, middling and small, rows.
COUNTERS: tuple[Shape, ...] = (
    (32, 64, 112, 112),
    (32, 256, 56, 56),
    (32, 2048, 7, 7),
    (8192, 4096),
)
# As quick as a rehearsal on a CPU should be.
TINY: tuple[Shape, ...] = ((4, 8, 5, 5), (2, 3, 4, 4, 4), (64, 16))

DTYPES = ("float32", "float16", "bfloat16")
LAYOUTS = ("channels_first", "channels_last")
OPERATIONS = ("forward", "backward")
# Reads and writes of the whole tensor that cannot be saved where ranks exchange statistics in
# between: forward reads x twice and writes y, backward reads x and dy twice and writes dx.
PASSES = {"forward": 3, "backward": 5}


@dataclasses.dataclass(frozen=True)
class Case:
    group: str  # what the shape stands for
    shape: Shape
    dtype: str
    layout: str
    times: int = 1  # in the group

    @property
    def nbytes(self) -> int:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize

    @property
    def name(self) -> str:
        spatial = {2: "", 3: "L", 4: "HW", 5: "DHW"}[len(self.shape)]
        order = f"N{spatial}C" if self.layout == "channels_last" else f"NC{spatial}"
        return f"{'x'.join(map(str, self.shape))} {self.dtype} {order}"


def case_of(name: str) -> Case:
    """Return the case that has this `name`; its group is unknown."""
    shape, dtype, order = name.split()
    layout = "channels_last" if order.endswith("C") and order != "NC" else "channels_first"
    return Case("", tuple(map(int, shape.split("x"))), dtype, layout)


def resnet50(images: int) -> dict[Shape, int]:
    return {(images, *shape): times for shape, times in RESNET50.items()}


def shapes_of(groups: Sequence[str]) -> Iterator[tuple[str, Shape, int]]:
    """Each group by its name: "resnet50-<images>", "others", "large", "counters" or "tiny"."""
    fixed = {"others": OTHERS, "large": LARGE, "counters": COUNTERS, "tiny": TINY}
    for group in groups:
        if group in fixed:
            yield from ((group, shape, 1) for shape in fixed[group])
        else:
            images = int(group.removeprefix("resnet50-"))
            yield from ((group, shape, times) for shape, times in resnet50(images).items())


def all_cases(
    groups: Sequence[str], dtypes: Sequence[str], layouts: Sequence[str]
) -> Iterator[Case]:
    for (group, shape, times), dtype, layout in itertools.product(
        shapes_of(groups), dtypes, layouts
    ):
        # A matrix has one layout.
        if len(shape) > 2 or layout == layouts[0]:
            yield Case(group, shape, dtype, layout if len(shape) > 2 else "channels_first", times)


def make_inputs(case: Case, device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)
    dtype: torch.dtype = getattr(torch, case.dtype)

    def tensor(offset: float) -> torch.Tensor:
        value = torch.randn(case.shape, generator=generator, device=device, dtype=dtype)
        value.add_(offset)
        if case.layout == "channels_last":
            value = value.movedim(1, -1).contiguous().movedim(-1, 1)
        return value

    channels = case.shape[1]
    weight = torch.rand(channels, generator=generator, device=device).add_(0.5)
    bias = torch.randn(channels, generator=generator, device=device)
    return Inputs(tensor(0.5), tensor(0.0), weight, bias)
