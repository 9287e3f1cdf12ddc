"""What is measured: the points of the table and their input."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import torch

SHAPES = ((32, 64, 112, 112), (32, 256, 56, 56), (32, 2048, 7, 7), (4096, 1024))
QUICK_SHAPES = ((8, 64, 28, 28), (32, 512, 7, 7), (512, 256))
TINY_SHAPE = (2, 8, 4, 4)
DTYPES = ("float32", "bfloat16")
LAYOUTS = ("channels_first", "channels_last")
OPERATIONS = ("forward", "backward", "forward+backward")

# Passes over memory that the algorithm needs at least where ranks exchange statistics between its
# two halves: forward reads x twice and writes y; backward reads x and dy twice and writes dx.
PASSES = {"forward": 3, "backward": 5, "forward+backward": 8}


@dataclasses.dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    dtype: str
    layout: str

    @property
    def name(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {self.dtype} {self.layout_name}"

    @property
    def layout_name(self) -> str:
        """NCHW, NHWC and their likes; plain NC where there is but one layout."""
        spatial = {2: "", 3: "L", 4: "HW", 5: "DHW"}[len(self.shape)]
        return f"N{spatial}C" if self.layout == "channels_last" else f"NC{spatial}"

    @property
    def nbytes(self) -> int:
        """Of x alone."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize


def all_cases(
    shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], layouts: Sequence[str]
) -> Iterator[Case]:
    for shape, layout, dtype in itertools.product(shapes, layouts, dtypes):
        if len(shape) == 2:
            if layout == layouts[0]:
                yield Case(shape, dtype, "channels_first")
        else:
            yield Case(shape, dtype, layout)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """x and dy have one layout; parameters are float32, as in mixed-precision training."""

    x: torch.Tensor
    dy: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


def make_inputs(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)
    channels = case.shape[1]

    def tensor(scale: float, offset: float) -> torch.Tensor:
        value = torch.randn(case.shape, generator=generator).mul_(scale).add_(offset).to(dtype)
        if case.layout == "channels_last":
            value = value.movedim(1, -1).contiguous().movedim(-1, 1)
        return value

    return Inputs(
        x=tensor(1.5, 0.5).requires_grad_(),
        dy=tensor(1.0, 0.0),
        weight=torch.rand(channels, generator=generator).add_(0.5).requires_grad_(),
        bias=torch.randn(channels, generator=generator).requires_grad_(),
    )
