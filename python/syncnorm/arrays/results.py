"""The results of the functions besides arrays: Saved and Gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from syncnorm import Communicator
from syncnorm._core import Array

from .library import A
from .operands import Operands


@dataclass(slots=True, eq=False)
class Saved(Generic[A]):
    """The result of a forward pass that its backward pass reads.

    x, weight and bias must not change before the backward pass. A captured CUDA graph uses memory
    of this object: keep it as long as the graph.

    Attributes:
        operands: x, its layout and the options of the call.
        statistics: float64 (3C + 2,): [W/(sum(W)*n), h, mean[C], invstd[C], gate[C]].
        weight: The scale, or None.
        bias: The offset, or None.
        has_residual: Whether the forward pass had a residual.
        views: The arguments that every backward function of the core reads, by name.
        mask: A view of the mask, or None.
        comm: The communicator of the call, or None.
        frozen: Whether the call used running statistics, so that its backward pass is local.
        num_threads: CPU threads; None: the default.
    """

    operands: Operands[A]
    statistics: A
    weight: A | None
    bias: A | None
    has_residual: bool
    views: dict[str, Any]
    mask: Array | None
    comm: Communicator | None = None
    frozen: bool = False
    num_threads: int | None = None

    @property
    def x(self) -> A:
        """The dense input, or the output with `in_place=True`."""
        return self.operands.x


class Gradients(tuple[A, "A | None", "A | None"], Generic[A]):
    """The tuple (dx, dweight, dbias), with dresidual as an attribute.

    Attributes:
        dx: In the shape, dtype and layout of x.
        dweight: In the shape and dtype of weight; None without a weight.
        dbias: In the shape and dtype of bias; None without a bias.
        dresidual: In the shape, dtype and layout of x; None without a residual.
    """

    dresidual: A | None

    def __new__(
        cls, dx: A, dweight: A | None, dbias: A | None, dresidual: A | None = None
    ) -> Gradients[A]:
        self = super().__new__(cls, (dx, dweight, dbias))
        self.dresidual = dresidual
        return self

    @property
    def dx(self) -> A:
        return self[0]

    @property
    def dweight(self) -> A | None:
        return self[1]

    @property
    def dbias(self) -> A | None:
        return self[2]
