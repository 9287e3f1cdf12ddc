"""The phases of forward and backward, for callers that sum the wires themselves.

    wire, local_var = moments(x)                          # all-reduce: total = sum of the wires
    y, saved = normalize(x, wire, total, group_size)
    wire = grad_moments(dy, saved)                        # all-reduce: total = sum of the wires
    gradients = grad_input(dy, saved, wire, total, group_size)

With centering (the default for float64 x) `center` makes one more wire between the first two, and
its sum is the center_total of `normalize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

from syncnorm import _core
from syncnorm.settings import SettingsArguments

from .call_arguments import (
    allocate_forward,
    allocate_gradients,
    check_saved,
    forward_arguments,
    gradient_arguments,
    replace_x_in_place,
    running_arguments,
    saved_placement,
)
from .library import A, ArrayLibrary
from .operands import Operands
from .results import Gradients, Saved

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Phases(Generic[A]):
    """The phases of an adapter.

    Arguments have the shapes and dtypes of `forward`, and the functions raise its errors. axis,
    mask, tag and the settings have to be the same in all phases of a call. Every wire that a phase
    returns is a new array.

    Args:
        library: The library of all arrays that the phases take and return.
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
        """Compute the wire of this rank: forward, phase 1.

        Args:
            x: The input of this rank; it may be empty.
            axis: The channel axis, or several.
            mask: bool or uint8, in x's shape without the channel axes; 0: the position does not
                count.
            num_threads: CPU threads; None: the default of `forward`.
            tag: A number for the call, the same on all ranks. Ranks with different tags get a
                DesyncError.
            **settings: As in `forward`.

        Returns:
            The wire, float64 (2C + 4,), and the local variance, float64 (C,), or None without
            centering.
        """
        operands = Operands.from_x(self.library, x, axis, settings)
        wire, wire_view = operands.new_float64(operands.sizes.wire, "wire")
        local_var, local_var_view = None, None
        if operands.sizes.center_wire:
            channels = operands.layout.core_shape[1]
            local_var, local_var_view = operands.new_float64(channels, "local_var")
        _core.moments(
            operands.options,
            operands.x_view,
            wire=wire_view,
            mask=operands.mask(mask),
            local_var=local_var_view,
            tag=tag,
            **operands.placement(num_threads),
        )
        return wire, local_var

    def center(
        self,
        x: A,
        wire: A,
        total: A,
        local_var: A,
        group_size: int,
        *,
        axis: int | Sequence[int] = 1,
        tag: int = 0,
        **settings: Unpack[SettingsArguments],
    ) -> A:
        """Compute the wire for centering: forward, phase 2, only if `moments` gave local_var.

        Args:
            x: As in `moments`. Its values are not read.
            wire: float64 (2C + 4,), of this rank.
            total: float64 (2C + 4,), the sum of the wires of all ranks.
            local_var: float64 (C,), of this rank.
            group_size: The number of ranks.
            axis: The channel axis, or several.
            tag: As in `moments`.
            **settings: As in `moments`.

        Returns:
            A wire, float64, C + 2 values rounded up to an even length. Its sum over all ranks is
            the center_total of `normalize`.
        """
        operands = Operands.from_x(self.library, x, axis, settings)
        center_wire, view = operands.new_float64(operands.sizes.center_wire, "center_wire")
        _core.center(
            operands.options,
            operands.x_view,
            group_size=group_size,
            wire=operands.wire(wire, "wire"),
            total=operands.wire(total, "total"),
            local_var=operands.wire(local_var, "local_var"),
            center_wire=view,
            tag=tag,
            **operands.placement(None),
        )
        return center_wire

    def normalize(
        self,
        x: A,
        wire: A,
        total: A,
        group_size: int,
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
        """Normalize x with the statistics of all ranks: forward, phase 3.

        Args:
            x: As in `moments`.
            wire: float64 (2C + 4,), of this rank.
            total: float64 (2C + 4,), the sum of the wires of all ranks; another array than wire.
            group_size: The number of ranks.
            weight: As in `forward`, and so are all arguments that are not listed here.
            center_total: float64, the sum of the results of `center`. Required with centering.
            mask: As in `moments`. `grad_input` reads it.
            tag: As in `moments`.

        Returns:
            y, in the shape, dtype and memory layout of x, and saved, for the backward phases.
        """
        operands = Operands.from_x(self.library, x, axis, settings)
        y, y_view, saved = allocate_forward(operands, weight, bias, residual, mask, out)
        saved.num_threads = num_threads
        _core.normalize(
            operands.options,
            operands.x_view,
            group_size=group_size,
            wire=operands.wire(wire, "wire"),
            total=operands.wire(total, "total"),
            y=y_view,
            center_total=(
                None if center_total is None else operands.wire(center_total, "center_total")
            ),
            tag=tag,
            **running_arguments(operands, running_mean, running_var, num_batches_tracked),
            **forward_arguments(saved, residual),
        )
        replace_x_in_place(saved, y, y_view)
        return y, saved

    def grad_moments(self, dy: A, saved: Saved[A], *, tag: int = 0) -> A:
        """Compute the wire of this rank for the gradients: backward, phase 1.

        Args:
            dy: The gradient of y, in its shape and dtype.
            saved: The second result of `normalize`.
            tag: As in `moments`.

        Returns:
            The wire, float64 (2C + 2,).
        """
        check_saved(saved)
        operands = saved.operands
        wire, wire_view = operands.new_float64(operands.sizes.grad_wire, "wire")
        _core.grad_moments(
            operands.options,
            dy=operands.data_input(dy, "dy"),
            wire=wire_view,
            tag=tag,
            **saved.views,
            **saved_placement(saved),
        )
        return wire

    def grad_input(
        self, dy: A, saved: Saved[A], wire: A, total: A, group_size: int, *, tag: int = 0
    ) -> Gradients[A]:
        """Compute the gradients from the wires: backward, phase 2.

        Args:
            dy: The gradient of y, in its shape and dtype.
            saved: The second result of `normalize`.
            wire: float64 (2C + 2,), of this rank.
            total: float64 (2C + 2,), the sum of the wires of all ranks; another array than wire.
            group_size: The number of ranks.
            tag: As in `moments`.

        Returns:
            (dx, dweight, dbias), with dresidual as an attribute.
        """
        check_saved(saved)
        operands = saved.operands
        gradients = allocate_gradients(saved)
        _core.grad_input(
            operands.options,
            group_size=group_size,
            wire=operands.wire(wire, "wire"),
            total=operands.wire(total, "total"),
            mask=saved.mask,
            tag=tag,
            **gradient_arguments(saved, dy, gradients),
        )
        return gradients
