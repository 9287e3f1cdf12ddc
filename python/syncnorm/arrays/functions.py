"""Batch normalization of the arrays of one library: forward, backward, infer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

from syncnorm import Communicator, _core
from syncnorm.settings import SettingsArguments
from syncnorm.tags import constant_tag

from .call_arguments import (
    allocate_forward,
    allocate_gradients,
    check_communicator,
    check_flag,
    check_saved,
    forward_arguments,
    gradient_arguments,
    replace_x_in_place,
    running_arguments,
)
from .library import A, ArrayLibrary
from .operands import Operands
from .results import Gradients, Saved

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Functions(Generic[A]):
    """The functions of an adapter.

    Args:
        library: The library of all arrays that the functions take and return.
    """

    def __init__(self, library: ArrayLibrary[A]) -> None:
        self.library = library

    def forward(
        self,
        x: A,
        weight: A | None = None,
        bias: A | None = None,
        running_mean: A | None = None,
        running_var: A | None = None,
        *,
        comm: Communicator | None = None,
        training: bool = True,
        axis: int | Sequence[int] = 1,
        residual: A | None = None,
        mask: A | None = None,
        num_batches_tracked: A | None = None,
        out: A | None = None,
        num_threads: int | None = None,
        tag: int = 0,
        **settings: Unpack[SettingsArguments],
    ) -> tuple[A, Saved[A]]:
        """Normalize x with the statistics of the batch over all ranks of a group.

        Every rank of `comm` has to call it, also with an empty x. On the CPU it returns when y is
        complete; on a device it enqueues its work on the current stream.

        Per-channel arrays have the shape of x's channel axes, and any mix of the dtypes float16,
        bfloat16 and float32, or of float32 and float64 where x is float64.

        Args:
            x: float16, bfloat16 (of ml_dtypes), float32 or float64, of any shape, also empty. It is
                copied if it has gaps or the core cannot read its axes in their order.
            weight: Per-channel scale; None: 1.
            bias: Per-channel offset; None: 0.
            running_mean: Per-channel, updated in place in training. Required in evaluation.
            running_var: As running_mean. Give both or neither.
            comm: The process group; None: this rank alone.
            training: False: normalize with the running statistics and leave them unchanged. Then no
                rank communicates, in backward neither.
            axis: The channel axis, or several. All other axes are reduced.
            residual: In x's shape and dtype, added before the activation.
            mask: bool or uint8, in x's shape without the channel axes. A position where it is 0 is
                normalized, but does not count in the statistics.
            num_batches_tracked: One int64 value in any shape, incremented in place in training.
            out: The array for y, in the memory layout of x. It may be the residual, and with
                `in_place=True` x.
            num_threads: CPU threads; None: OMP_NUM_THREADS, or else all cores of the process,
                divided among ranks that are threads. The result is the same to the bit.
            tag: Identifies the layer, the same on all ranks: its number shifted left by 32 bits.
                Ranks in different layers then get a DesyncError.
            **settings: eps=1e-5; momentum=0.1, where running = (1 - momentum)*running +
                momentum*batch and None averages over all batches; weighting, eps_mode,
                variance_factor, grad_reduction, centering, activation, negative_slope and in_place
                as in `syncnorm.Options`.

        Returns:
            y, in the shape, dtype and memory layout of x, and saved, for `backward`.

        Raises:
            InvalidArgumentError: A shape, dtype, layout, device or setting is not allowed, or an
                output is read-only. Nothing has been written.
            TypeError: An argument is no array of this library, or comm is no communicator.
            Error: The communication failed: `DesyncError`, `CommunicatorTimeoutError` and others.
        """
        if comm is not None:
            check_communicator(comm)
        check_flag(training, "training")
        operands = Operands.from_x(self.library, x, axis, settings)
        y, y_view, saved = allocate_forward(operands, weight, bias, residual, mask, out)
        saved.comm, saved.frozen, saved.num_threads = comm, not training, num_threads
        arguments = forward_arguments(saved, residual)
        if training:
            _core.forward(
                operands.options,
                comm,
                operands.x_view,
                y_view,
                mask=saved.mask,
                tag=constant_tag(tag) if self.library.is_capturing() else tag,
                **running_arguments(operands, running_mean, running_var, num_batches_tracked),
                **arguments,
            )
        else:
            mean, var = operands.eval_statistics(running_mean, running_var)
            _core.infer(operands.options, operands.x_view, mean, var, y_view, **arguments)
        replace_x_in_place(saved, y, y_view)
        return y, saved

    def infer(
        self,
        x: A,
        weight: A | None,
        bias: A | None,
        running_mean: A,
        running_var: A,
        *,
        axis: int | Sequence[int] = 1,
        residual: A | None = None,
        out: A | None = None,
        num_threads: int | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> A:
        """Normalize x with running statistics: act((x - mean)*invstd*weight + bias [+ residual]).

        The values are those of `forward(..., training=False)`, without a `saved` for backward.

        Args:
            x: As in `forward`, and so are all arguments that are not listed here.
            weight: Per-channel scale; None: 1.
            bias: Per-channel offset; None: 0.
            running_mean: Per-channel, not changed.
            running_var: Per-channel, not changed.
            axis: The channel axis, or several.
            residual: In x's shape and dtype, added before the activation.
            out: The array for y, in the memory layout of x. It may be x or the residual.
            num_threads: CPU threads; None: the default of `forward`.
            **settings: As in `forward`.

        Returns:
            y, in the shape, dtype and memory layout of x.

        Raises:
            InvalidArgumentError: As in `forward`.
            TypeError: An argument is no array of this library.
        """
        operands = Operands.from_x(self.library, x, axis, settings)
        mean, var = operands.eval_statistics(running_mean, running_var)
        y, y_view = operands.data_output(out)
        _core.infer(
            operands.options,
            operands.x_view,
            mean,
            var,
            y_view,
            weight=operands.vector_input(weight, "weight"),
            bias=operands.vector_input(bias, "bias"),
            residual=operands.optional_data_input(residual, "residual"),
            **operands.placement(num_threads, status=False),
        )
        return y

    def backward(self, dy: A, saved: Saved[A]) -> Gradients[A]:
        """Compute the gradients of a forward pass.

        If the forward pass had a communicator, every rank has to call backward, in the same order.
        The call uses the device and the threads of the forward pass.

        Args:
            dy: The gradient of y, in its shape and dtype.
            saved: The second result of `forward`. It can be used several times.

        Returns:
            (dx, dweight, dbias), with dresidual as an attribute.

        Raises:
            InvalidArgumentError: dy has a wrong shape, dtype or device.
            TypeError: dy is no array of this library, or saved is no result of `forward`.
            Error: As in `forward`.
        """
        check_saved(saved)
        options = saved.operands.options
        gradients = allocate_gradients(saved)
        arguments = gradient_arguments(saved, dy, gradients)
        if saved.frozen:
            _core.infer_backward(options, **arguments)
        else:
            _core.backward(options, saved.comm, mask=saved.mask, **arguments)
        return gradients
