"""The phases, for callers that sum the wires themselves. Every wire returned is a new array.

    wire, local_var = moments(x)                          # total = sum of wire over the group
    y, saved = normalize(x, group_size, wire, total)
    wire = grad_moments(dy, saved)                        # total = sum of wire over the group
    gradients = grad_input(dy, saved, group_size, wire, total)

Where centring is on (float64 x by default), center makes one more wire between the first two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic

from syncnorm import _core
from syncnorm.settings import SettingsArguments

from .functions import (
    check_saved,
    empty_gradients,
    gradient_arguments,
    keep_y_in_place,
    new_outputs,
    output_arguments,
    placement,
    running_arguments,
)
from .library import A, ArrayLibrary
from .operands import Operands
from .results import Gradients, Saved

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Phases(Generic[A]):
    """The phases of an adapter. Its arrays are those of `library`.

    Arguments and errors are those of forward; axis and settings have to be the same in all phases.
    tag: names the call, alike on all ranks, so that ranks in different calls are told apart.
    """

    def __init__(self, library: ArrayLibrary[A]) -> None:
        self.library = library

    def moments(
        self,
        x: A,
        *,
        axis: int | Sequence[int] = 1,
        mask: A | None = None,
        num_threads: int | None = None,
        tag: int = 0,
        **settings: Unpack[SettingsArguments],
    ) -> tuple[A, A | None]:
        """The wire of this rank, float64 (2C + 4,), and local_var, float64 (C,), for center."""
        operands = Operands.of(self.library, x, axis, settings)
        wire, wire_view = operands.new_doubles(operands.sizes.wire, "wire")
        local_var, local_var_view = None, None
        if operands.sizes.center_wire:
            channels = operands.form.core_shape[1]
            local_var, local_var_view = operands.new_doubles(channels, "local_var")
        _core.moments(
            operands.options,
            operands.x_view,
            wire_view,
            mask=operands.mask(mask),
            local_var=local_var_view,
            tag=tag,
            **status_and_placement(operands, num_threads),
        )
        return wire, local_var

    def center(
        self,
        x: A,
        group_size: int,
        wire: A,
        total: A,
        local_var: A,
        *,
        axis: int | Sequence[int] = 1,
        tag: int = 0,
        **settings: Unpack[SettingsArguments],
    ) -> A:
        """The second wire, to be summed over the group as center_total; reads only x's shape."""
        operands = Operands.of(self.library, x, axis, settings)
        center_wire, view = operands.new_doubles(operands.sizes.center_wire, "center_wire")
        _core.center(
            operands.options,
            operands.x_view,
            group_size,
            operands.wire(wire, "wire"),
            operands.wire(total, "total"),
            operands.wire(local_var, "local_var"),
            view,
            tag=tag,
            **status_and_placement(operands, None),
        )
        return center_wire

    def normalize(
        self,
        x: A,
        group_size: int,
        wire: A,
        total: A,
        weight: A | None = None,
        bias: A | None = None,
        running_mean: A | None = None,
        running_var: A | None = None,
        *,
        center_total: A | None = None,
        axis: int | Sequence[int] = 1,
        residual: A | None = None,
        mask: A | None = None,
        num_batches_tracked: A | None = None,
        out: A | None = None,
        num_threads: int | None = None,
        tag: int = 0,
        **settings: Unpack[SettingsArguments],
    ) -> tuple[A, Saved[A]]:
        """y and what backward takes, from this rank's wire and the sum of all group_size wires.

        The mask is kept for grad_input; give the one of moments.
        """
        operands = Operands.of(self.library, x, axis, settings)
        y, y_view, saved = new_outputs(operands, weight, bias, residual, mask, out)
        saved.num_threads = num_threads
        _core.normalize(
            operands.options,
            operands.x_view,
            group_size,
            operands.wire(wire, "wire"),
            operands.wire(total, "total"),
            y_view,
            center_total=(
                None if center_total is None else operands.wire(center_total, "center_total")
            ),
            tag=tag,
            **running_arguments(operands, running_mean, running_var, num_batches_tracked),
            **output_arguments(operands, saved, residual),
        )
        keep_y_in_place(saved, y, y_view)
        return y, saved

    def grad_moments(self, dy: A, saved: Saved[A], *, tag: int = 0) -> A:
        """The wire of this rank for the backward pass, float64 (2C + 2,)."""
        check_saved(saved)
        operands = saved.operands
        wire, wire_view = operands.new_doubles(operands.sizes.grad_wire, "wire")
        _core.grad_moments(
            operands.options,
            dy=operands.like_x(dy, "dy"),
            wire=wire_view,
            tag=tag,
            **saved.views,
            **placement(saved),
        )
        return wire

    def grad_input(
        self, dy: A, saved: Saved[A], group_size: int, wire: A, total: A, *, tag: int = 0
    ) -> Gradients[A]:
        """The gradients, from this rank's wire and the sum of the wires of all group_size ranks."""
        check_saved(saved)
        operands = saved.operands
        gradients = empty_gradients(saved)
        _core.grad_input(
            operands.options,
            dy=operands.like_x(dy, "dy"),
            group_size=group_size,
            wire=operands.wire(wire, "wire"),
            total=operands.wire(total, "total"),
            mask=saved.mask,
            tag=tag,
            **saved.views,
            **gradient_arguments(operands, gradients),
            **placement(saved, gradients),
        )
        return gradients


def status_and_placement(operands: Operands[A], num_threads: int | None) -> dict[str, Any]:
    """Where a phase runs that keeps nothing for the backward pass."""
    library, x = operands.library, operands.x
    found = library.placement(x, operands.sizes.workspace, num_threads, None)
    return {"status": library.status_word(x), **found}
