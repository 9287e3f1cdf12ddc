"""The arrays of one call: checks, copies where the layout differs, and views for the core."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Generic

from syncnorm import Communicator, InvalidArgumentError, Options
from syncnorm._core import Array, Sizes, sizes
from syncnorm.settings import Settings, SettingsArguments, core_options

from .layout import Axes, Layout, as_axis_tuple, is_dense, layout_of
from .library import A, ArrayLibrary


class Operands(Generic[A]):
    """x of a call with its layout and options, from which the other arrays are checked and viewed.

    Methods that take an argument of the caller raise InvalidArgumentError or TypeError, with the
    name of the argument.
    """

    __slots__ = ("graph_memory", "layout", "library", "options", "sizes", "x", "x_view")

    def __init__(self, library: ArrayLibrary[A], x: A, layout: Layout, options: Options) -> None:
        self.library, self.x, self.layout, self.options = library, x, layout, options
        self.graph_memory: list[Any] = []
        self.x_view: Array = self.data_view(x, "x")
        self.sizes: Sizes = sizes(self.x_view, options)

    @classmethod
    def from_x(
        cls,
        library: ArrayLibrary[A],
        value: Any,
        axis: int | Sequence[int],
        settings: SettingsArguments,
    ) -> Operands[A]:
        """Take value as x, and copy it if the core cannot read its layout."""
        options = make_options(**settings)
        x = library.as_array(value, "x")
        axes = axis if type(axis) is int else as_axis_tuple(axis)
        layout = layout_of(x.shape, x.strides, x.itemsize, axes, options.weighting == "batch")
        if not layout.needs_copy:
            return cls(library, x, layout, options)
        operands = cls(library, dense_copy(library, x, layout.order), layout, options)
        operands.keep_for_graph(operands.x)
        return operands

    def keep_for_graph(self, memory: Any) -> None:
        """Keep memory as long as these operands if a graph is being captured.

        A graph uses its memory at every replay. Outside of a capture the library may reuse memory
        as soon as the work is enqueued.
        """
        if self.library.is_capturing():
            self.graph_memory.append(memory)

    def placement(
        self, num_threads: int | None, comm: Communicator | None = None, *, status: bool = True
    ) -> dict[str, Any]:
        """Return the keyword arguments that say where the core runs a call.

        status: whether ranks can disagree, so that a device needs its status word.
        """
        where = self.library.placement(self.x, self.sizes.workspace, num_threads, comm)
        if status:
            where["status"] = self.library.status_word(self.x)
        return where

    def data_view(self, array: A, name: str) -> Array:
        """View an array that has the shape and layout of x."""
        return self.library.view(array, self.layout.core_shape, self.layout.core_strides, name)

    def empty_like_x(self) -> A:
        return empty_in_order(self.library, self.x.shape, self.x.dtype, self.layout.order)

    def data_input(self, value: Any, name: str) -> Array:
        """View an input of x's shape; copy it if its layout is not that of x."""
        array = self._input(value, self.layout.shape, self.layout.order, name)
        return self.data_view(array, name)

    def optional_data_input(self, value: Any, name: str) -> Array | None:
        return None if value is None else self.data_input(value, name)

    def data_output(self, out: Any) -> tuple[A, Array]:
        """Return `out`, or a new array if it is None, and its view."""
        if out is None:
            y = self.empty_like_x()
        else:
            y = self._output(out, self.layout.shape, self.layout.order, "out")
        return y, self.data_view(y, "out")

    def parameter(self, value: Any, name: str) -> A | None:
        """Return a per-channel input as a contiguous array."""
        return None if value is None else self._input(value, self.layout.channel_shape, None, name)

    def vector_view(self, array: A | None, name: str) -> Array | None:
        """View a contiguous per-channel array as the core's (C,)."""
        if array is None:
            return None
        return self.library.view(array, self.layout.core_shape[1:2], (1,), name)

    def vector_input(self, value: Any, name: str) -> Array | None:
        """View a per-channel input."""
        return self.vector_view(self.parameter(value, name), name)

    def vector_output(self, value: Any, name: str) -> Array | None:
        """View a per-channel array that the call updates in place."""
        if value is None:
            return None
        return self.vector_view(self._output(value, self.layout.channel_shape, None, name), name)

    def eval_statistics(self, mean: Any, var: Any) -> tuple[Array | None, Array | None]:
        """View the running statistics that normalize x in evaluation."""
        if mean is None or var is None:
            name = "running_mean" if mean is None else "running_var"
            raise InvalidArgumentError(
                f"{name}: got None, expected an array: evaluation normalizes with the running"
                " statistics"
            )
        return self.vector_input(mean, "running_mean"), self.vector_input(var, "running_var")

    def counter(self, value: Any) -> Array | None:
        """View num_batches_tracked, one value in an array of any shape."""
        if value is None:
            return None
        array = self.library.as_array(value, "num_batches_tracked")
        if math.prod(array.shape) != 1:
            raise InvalidArgumentError(
                f"num_batches_tracked: got shape {array.shape}, expected one int64 value"
            )
        return self.library.view(array, (1,), (1,), "num_batches_tracked")

    def mask(self, value: Any) -> Array | None:
        """View a mask as the core's (N, S); copy it if its layout is not that of x."""
        if value is None:
            return None
        layout = self.layout
        n, _, s = layout.core_shape
        array = self._input(value, layout.mask_shape, layout.mask_order, "mask")
        return self.library.view(array, (n, s), (s, 1), "mask")

    def new_float64(self, length: int, name: str) -> tuple[A, Array]:
        """Return a new float64 vector without values, and its view."""
        array = self.library.empty((length,), "float64")
        return array, self.library.view(array, (length,), (1,), name)

    def wire(self, value: Any, name: str) -> Array:
        """View a float64 vector that is only read. The core checks its length."""
        array = self.library.as_array(value, name)
        if len(array.shape) != 1:
            raise InvalidArgumentError(f"{name}: got shape {array.shape}, expected one axis")
        dense = self._input(array, array.shape, None, name)
        return self.library.view(dense, array.shape, (1,), name)

    def _input(self, value: Any, shape: tuple[int, ...], order: Axes | None, name: str) -> A:
        """Return value as a dense array in this order; copy it if necessary."""
        array = self.library.as_array(value, name)
        if array.shape != shape:
            raise self._wrong_shape(array, shape, name)
        if is_dense(shape, array.strides, array.itemsize, order):
            return array
        copy = dense_copy(self.library, array, order)
        self.keep_for_graph(copy)
        return copy

    def _output(self, value: Any, shape: tuple[int, ...], order: Axes | None, name: str) -> A:
        array = self.library.as_array(value, name)
        if array.shape != shape:
            raise self._wrong_shape(array, shape, name)
        if is_dense(shape, array.strides, array.itemsize, order):
            return array
        expected = (
            "a contiguous array"
            if order is None
            else f"an array without gaps, with its axes in memory order {order} as in x"
        )
        raise InvalidArgumentError(
            f"{name}: got byte strides {array.strides} for shape {shape}, expected {expected},"
            " because it is written in place"
        )

    def _wrong_shape(self, array: A, expected: tuple[int, ...], name: str) -> InvalidArgumentError:
        axes = self.layout.channel_axes
        return InvalidArgumentError(
            f"{name}: got shape {array.shape}, expected {expected}: x has shape"
            f" {self.layout.shape} with channel"
            f" {f'axis {axes[0]}' if len(axes) == 1 else f'axes {axes}'}"
        )


@functools.lru_cache(maxsize=1024)
def make_options(**settings: Any) -> Options:
    """Return the Options for the settings of a call; cached.

    Raises:
        InvalidArgumentError: A value is not allowed.
        TypeError: There is no setting of this name.
    """
    unknown = sorted(settings.keys() - set(Settings._fields))
    if unknown:
        raise TypeError(
            f"got an unexpected argument {unknown[0]!r}, expected an argument of the function or"
            f" one of the settings {', '.join(Settings._fields)}"
        )
    return core_options(Settings(**settings))


def dense_copy(library: ArrayLibrary[A], array: A, order: Axes | None) -> A:
    """Copy an array into dense memory with its axes in this order; None: row-major."""
    copy = empty_in_order(library, array.shape, array.dtype, order)
    library.assign(copy, array)
    return copy


def empty_in_order(
    library: ArrayLibrary[A], shape: tuple[int, ...], dtype: Any, order: Axes | None
) -> A:
    """Return a new dense array with its axes in this memory order; None: row-major."""
    if order is None:
        return library.empty(shape, dtype)
    array = library.empty(tuple(shape[a] for a in order), dtype)
    transposed: A = array.transpose(sorted(range(len(order)), key=order.__getitem__))
    return transposed
