"""Define the benchmark's cases (shape, dtype, layout) and make their inputs."""

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

# Minimum number of passes over memory when an all-reduce separates the two kernels: forward reads x
# twice and writes y; backward reads x and dy twice and writes dx.
PASSES = {"forward": 3, "backward": 5, "forward+backward": 8}


@dataclasses.dataclass(frozen=True)
class Case:
    """One input: the shape, dtype and layout of x."""

    shape: tuple[int, ...]
    dtype: str
    layout: str

    @property
    def name(self) -> str:
        """The shape, dtype and layout as the table shows them."""
        return f"{'x'.join(map(str, self.shape))} {self.dtype} {self.layout_name}"

    @property
    def layout_name(self) -> str:
        """The layout as NCHW, NHWC and so on; NC for 2-D input, which has only one."""
        spatial = {2: "", 3: "L", 4: "HW", 5: "DHW"}[len(self.shape)]
        return f"N{spatial}C" if self.layout == "channels_last" else f"NC{spatial}"

    @property
    def nbytes(self) -> int:
        """The size of x in bytes."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * dtype.itemsize


def all_cases(
    shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str], layouts: Sequence[str]
) -> Iterator[Case]:
    """Yield every combination, but 2-D shapes in one layout only."""
    for shape, layout, dtype in itertools.product(shapes, layouts, dtypes):
        if len(shape) > 2:
            yield Case(shape, dtype, layout)
        elif layout == layouts[0]:
            yield Case(shape, dtype, "channels_first")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The tensors of one case.

    x and dy share a layout. Parameters are float32, as in mixed-precision training.
    """

    x: torch.Tensor
    dy: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


def make_inputs(case: Case) -> Inputs:
    """Return random inputs for `case`, the same in every run."""
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
