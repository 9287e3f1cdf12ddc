"""What the functions hand out besides arrays: Saved and Gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from syncnorm import Communicator
from syncnorm._core import Array

from .library import A
from .operands import Operands


@dataclass(slots=True, eq=False)
class Saved(Generic[A]):
    """What the backward pass needs of the forward pass. The arrays must not change in between.

    A CUDA graph that was captured works on the memory of this object: keep it as long as the graph.
    """

    operands: Operands[A]
    statistics: A  # float64 (3*C + 2,): [W/(sum(W)*n), 0, mean[C], invstd[C], gate[C]]
    weight: A | None
    bias: A | None
    has_residual: bool
    views: dict[str, Any]  # what all functions of the backward pass read, by argument
    mask: Array | None
    comm: Communicator | None = None
    frozen: bool = False  # running statistics were used: no group in the backward pass
    num_threads: int | None = None

    @property
    def x(self) -> A:
        """Dense; with the setting in_place the output."""
        return self.operands.x


class Gradients(tuple[A, "A | None", "A | None"], Generic[A]):
    """(dx, dweight, dbias), and dresidual, which is no item of the tuple.

    dx and dresidual have the shape, dtype and layout of x, dweight and dbias shape and dtype of
    the parameter; None for what the forward pass had not. grad_reduction says what the last two
    sum over.
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
