"""Batch normalization of the arrays of one library: forward, backward, infer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic

from syncnorm import Communicator, InvalidArgumentError, _core
from syncnorm._core import Array
from syncnorm.settings import SettingsArguments

from .library import A, ArrayLibrary
from .operands import Operands
from .results import Gradients, Saved

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Functions(Generic[A]):
    """The functions of an adapter. Its arrays are those of `library`."""

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
        **settings: Unpack[SettingsArguments],
    ) -> tuple[A, Saved[A]]:
        """Normalize x by the statistics of a group's batch; returns y, and what backward takes.

        Every rank of `comm` calls it, also one whose x is empty; None is a group of one.

        x: float16, bfloat16 (of ml_dtypes), float32 or float64. axis: the channel axis, or several;
        all others are reduced. weight, bias, running_mean, running_var: of the shape of x's channel
        axes, any mix of float16, bfloat16 and float32 (float64 or float32 where x is float64).
        running_mean and running_var are updated in place, num_batches_tracked (one int64 value) is
        incremented. mask: uint8 or bool, of x's shape without the channel axes; where it is 0 the
        position is normalized but does not count. residual: of x's shape and dtype, added before
        the activation.

        y has x's shape, dtype and memory layout; where x has gaps, or axes in an order that the
        core does not know, it is copied. out: where y goes; x itself is allowed with in_place=True.

        training=False: the running statistics are used and stay as they are; no rank talks to
        another, and backward gives the gradients of that.

        settings: eps=1e-5; momentum=0.1 (running = (1 - momentum)*running + momentum*batch; None:
        the average over all batches); weighting, eps_mode, variance_factor, grad_reduction,
        centering, activation, negative_slope, in_place as in syncnorm.Options. num_threads: CPU
        threads; None: OMP_NUM_THREADS, or all cores of this process, shared by ranks that are
        threads. The result does not depend on it, to the bit.

        On the CPU it returns when y is complete; on a device it enqueues its work on the current
        stream. Raises InvalidArgumentError for a wrong shape, dtype, layout or device and for a
        read-only output, TypeError for what is no array of this library, and what `comm` raises.
        """
        if comm is not None:
            check_communicator(comm)
        operands = Operands.of(self.library, x, axis, settings)
        y, y_view, saved = new_outputs(operands, weight, bias, residual, mask, out)
        saved.comm, saved.frozen, saved.num_threads = comm, not training, num_threads
        arguments = output_arguments(operands, saved, residual)
        if training:
            _core.forward(
                operands.options,
                comm,
                operands.x_view,
                y_view,
                mask=saved.mask,
                **running_arguments(operands, running_mean, running_var, num_batches_tracked),
                **arguments,
            )
        else:
            mean, var = operands.fixed_statistics(running_mean, running_var)
            _core.infer(operands.options, operands.x_view, mean, var, y_view, **arguments)
        keep_y_in_place(saved, y, y_view)
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
        """y = act((x - running_mean)*invstd*weight + bias [+ residual]), and nothing for backward.

        out may be x. Otherwise as forward with training=False.
        """
        operands = Operands.of(self.library, x, axis, settings)
        mean, var = operands.fixed_statistics(running_mean, running_var)
        y, y_view = operands.output(out)
        _core.infer(
            operands.options,
            operands.x_view,
            mean,
            var,
            y_view,
            weight=operands.vector(weight, "weight"),
            bias=operands.vector(bias, "bias"),
            residual=None if residual is None else operands.like_x(residual, "residual"),
            **self.library.placement(operands.x, operands.sizes.workspace, num_threads, None),
        )
        return y

    def backward(self, dy: A, saved: Saved[A]) -> Gradients[A]:
        """The gradients (dx, dweight, dbias) from dy, of y's shape and dtype, and what was saved.

        Where forward had a communicator, every rank calls backward, in the same order. Runs where
        forward ran, raises as forward.
        """
        check_saved(saved)
        operands = saved.operands
        gradients = empty_gradients(saved)
        arguments = {
            "dy": operands.like_x(dy, "dy"),
            **saved.views,
            **gradient_arguments(operands, gradients),
            **placement(saved, gradients),
        }
        if saved.frozen:
            _core.infer_backward(operands.options, **arguments)
        else:
            _core.backward(operands.options, saved.comm, mask=saved.mask, **arguments)
        return gradients


def new_outputs(
    operands: Operands[A], weight: Any, bias: Any, residual: Any, mask: Any, out: Any
) -> tuple[A, Array, Saved[A]]:
    """y and its view, and memory for the statistics: neither is filled yet."""
    y, y_view = operands.output(out)
    if out is not None and not operands.options.in_place and y_view.overlaps(operands.x_view):
        raise InvalidArgumentError(
            "out: shares memory with x, which the backward pass reads; expected another array, or"
            " in_place=True"
        )
    statistics, statistics_view = operands.new_doubles(operands.sizes.saved, "saved")
    weight = operands.parameter(weight, "weight")
    bias = operands.parameter(bias, "bias")
    has_residual = residual is not None
    views = {
        "x": operands.x_view,
        "saved": statistics_view,
        "weight": operands.vector_of(weight, "weight"),
        "bias": operands.vector_of(bias, "bias"),
    }
    if has_residual and operands.options.activation != "identity":
        views["y"] = y_view  # x does not tell what the activation was given
    mask_view = operands.mask(mask)
    return y, y_view, Saved(operands, statistics, weight, bias, has_residual, views, mask_view)


def output_arguments(operands: Operands[A], saved: Saved[A], residual: Any) -> dict[str, Any]:
    """The keywords of every function that makes y."""
    views = saved.views
    return {
        "saved": views["saved"],
        "weight": views["weight"],
        "bias": views["bias"],
        "residual": None if residual is None else operands.like_x(residual, "residual"),
        **placement(saved),
    }


def running_arguments(
    operands: Operands[A], mean: Any, var: Any, num_batches_tracked: Any
) -> dict[str, Any]:
    """The keywords for running statistics that are updated."""
    return {
        "running_mean": operands.updated_vector(mean, "running_mean"),
        "running_var": operands.updated_vector(var, "running_var"),
        "num_batches_tracked": operands.counter(num_batches_tracked),
    }


def keep_y_in_place(saved: Saved[A], y: A, y_view: Array) -> None:
    """In place y takes the part of x, whose values are gone, or not needed any more."""
    if saved.operands.options.in_place:
        saved.operands.x, saved.operands.x_view = y, y_view
        saved.views["x"] = y_view


def empty_gradients(saved: Saved[A]) -> Gradients[A]:
    """Memory for the gradients, not yet filled."""
    operands = saved.operands

    def like(parameter: A | None) -> A | None:
        if parameter is None:
            return None
        return operands.library.empty(parameter.shape, parameter.dtype)

    dresidual = operands.empty_like_x() if saved.has_residual else None
    return Gradients(operands.empty_like_x(), like(saved.weight), like(saved.bias), dresidual)


def gradient_arguments(operands: Operands[A], gradients: Gradients[A]) -> dict[str, Any]:
    """The keywords of every function that writes gradients."""
    dx, dweight, dbias = gradients
    dresidual = gradients.dresidual
    return {
        "dx": operands.view_of(dx, "dx"),
        "dresidual": None if dresidual is None else operands.view_of(dresidual, "dresidual"),
        "dweight": operands.vector_of(dweight, "dweight"),
        "dbias": operands.vector_of(dbias, "dbias"),
    }


def placement(saved: Saved[A], gradients: Gradients[A] | None = None) -> dict[str, Any]:
    """Where a call runs, with scratch that lives as long as `saved` if a graph is captured.

    So do gradients then: a layer may have added them up and dropped them.
    """
    operands, library = saved.operands, saved.operands.library
    size = operands.sizes.workspace
    found = library.placement(operands.x, size, saved.num_threads, saved.comm)
    if not saved.frozen:
        found["status"] = library.status_word(operands.x)
    operands.keep_if_captured((found["workspace"], gradients))
    return found


def check_communicator(comm: Any) -> None:
    if not isinstance(comm, Communicator):
        raise TypeError(
            f"comm: got {type(comm).__name__}, expected a syncnorm.Communicator or None;"
            " syncnorm.comm makes one of what you have, such as from_mpi(comm)"
        )


def check_saved(saved: Any) -> None:
    if not isinstance(saved, Saved):
        raise TypeError(
            f"saved: got {type(saved).__name__}, expected what the forward pass returned beside y"
        )
