"""The arrays of one call: checked, dense, and as the core takes them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Generic

from syncnorm import InvalidArgumentError, Options
from syncnorm._core import Array, Sizes, sizes
from syncnorm.settings import Settings, SettingsArguments, core_options

from .forms import Axes, Form, form_of, is_dense, plain_axes
from .library import A, ArrayLibrary


class Operands(Generic[A]):
    """x and what comes with it. Members raise InvalidArgumentError or TypeError by argument."""

    __slots__ = ("form", "kept", "library", "options", "sizes", "x", "x_view")

    def __init__(self, library: ArrayLibrary[A], x: A, form: Form, options: Options) -> None:
        self.library, self.x, self.form, self.options = library, x, form, options
        self.kept: list[Any] = []
        self.x_view: Array = self.view_of(x, "x")
        self.sizes: Sizes = sizes(self.x_view, options)

    @classmethod
    def of(
        cls,
        library: ArrayLibrary[A],
        value: Any,
        axis: int | Sequence[int],
        settings: SettingsArguments,
    ) -> Operands[A]:
        """value as x, copied where it lies as the core cannot take it."""
        options = options_of(**settings)
        x = library.adopt(value, "x")
        axes = axis if type(axis) is int else plain_axes(axis)
        form = form_of(x.shape, x.strides, x.itemsize, axes, options.weighting == "batch")
        if not form.needs_copy:
            return cls(library, x, form, options)
        operands = cls(library, dense_copy(library, x, form.order), form, options)
        operands.keep_if_captured(operands.x)
        return operands

    def keep_if_captured(self, memory: Any) -> None:
        """Scratch of a graph, which works on it whenever it is replayed, is kept with the operands.

        Else the library may use it for something else as soon as the work is enqueued.
        """
        if self.library.is_capturing():
            self.kept.append(memory)

    def view_of(self, array: A, name: str) -> Array:
        """The view of an array that lies as x does."""
        return self.library.view(array, self.form.core_shape, self.form.core_strides, name)

    def empty_like_x(self) -> A:
        return empty_in_order(self.library, self.x.shape, self.x.dtype, self.form.order)

    def like_x(self, value: Any, name: str) -> Array:
        """An input of x's shape, copied where it does not lie as x does."""
        return self.view_of(self._input(value, self.form.shape, self.form.order, name), name)

    def output(self, value: Any) -> tuple[A, Array]:
        """Where y goes: a new array, or the one that the caller gives, which has to lie as x."""
        y = (
            self.empty_like_x()
            if value is None
            else self._output(value, self.form.shape, self.form.order, "out")
        )
        return y, self.view_of(y, "out")

    def parameter(self, value: Any, name: str) -> A | None:
        """A vector that is only read, such as weight; copied if it is not contiguous."""
        return None if value is None else self._input(value, self.form.channels, None, name)

    def vector_of(self, array: A | None, name: str) -> Array | None:
        """The view of a contiguous array with one value for each channel."""
        if array is None:
            return None
        return self.library.view(array, self.form.vector_shape, (1,), name)

    def vector(self, value: Any, name: str) -> Array | None:
        """The view of a vector that is only read."""
        return self.vector_of(self.parameter(value, name), name)

    def fixed_statistics(self, mean: Any, var: Any) -> tuple[Array | None, Array | None]:
        """The views of running statistics that are used."""
        if mean is None or var is None:
            name = "running_mean" if mean is None else "running_var"
            raise InvalidArgumentError(
                f"{name}: got None, expected an array: without training the running statistics"
                " normalize"
            )
        return self.vector(mean, "running_mean"), self.vector(var, "running_var")

    def updated_vector(self, value: Any, name: str) -> Array | None:
        """The view of a vector that is updated in place."""
        if value is None:
            return None
        return self.vector_of(self._output(value, self.form.channels, None, name), name)

    def counter(self, value: Any) -> Array | None:
        """The view of num_batches_tracked, one value in an array of any shape."""
        if value is None:
            return None
        array = self.library.adopt(value, "num_batches_tracked")
        if math.prod(array.shape) != 1:
            raise InvalidArgumentError(
                f"num_batches_tracked: got shape {array.shape}, expected one int64 value"
            )
        return self.library.view(array, (1,), (1,), "num_batches_tracked")

    def mask(self, value: Any) -> Array | None:
        """The mask in the order of x's memory, without the channel axes."""
        if value is None:
            return None
        form = self.form
        n, _, s = form.core_shape
        array = self._input(value, form.mask_shape, form.mask_order, "mask")
        return self.library.view(array, (n, s), (s, 1), "mask")

    def new_doubles(self, length: int, name: str) -> tuple[A, Array]:
        array = self.library.empty((length,), "float64")
        return array, self.library.view(array, (length,), (1,), name)

    def wire(self, value: Any, name: str) -> Array:
        """A vector of doubles that is only read. The core checks its length."""
        array = self.library.adopt(value, name)
        if len(array.shape) != 1:
            raise InvalidArgumentError(f"{name}: got shape {array.shape}, expected one axis")
        dense = self._input(array, array.shape, None, name)
        return self.library.view(dense, array.shape, (1,), name)

    def _input(self, value: Any, shape: tuple[int, ...], order: Axes | None, name: str) -> A:
        """An array of this shape that lies in this order, copied where it does not."""
        array = self.library.adopt(value, name)
        if array.shape != shape:
            raise self._wrong_shape(array, shape, name)
        if is_dense(shape, array.strides, array.itemsize, order):
            return array
        copy = dense_copy(self.library, array, order)
        self.keep_if_captured(copy)
        return copy

    def _output(self, value: Any, shape: tuple[int, ...], order: Axes | None, name: str) -> A:
        array = self.library.adopt(value, name)
        if array.shape != shape:
            raise self._wrong_shape(array, shape, name)
        if is_dense(shape, array.strides, array.itemsize, order):
            return array
        axes = "contiguous" if order is None else f"with its axes in the order {order} in memory"
        raise InvalidArgumentError(
            f"{name}: got byte strides {array.strides} for shape {shape}, expected an array without"
            f" gaps, {axes}, since it is written in place"
        )

    def _wrong_shape(self, array: A, expected: tuple[int, ...], name: str) -> InvalidArgumentError:
        axes = self.form.channel_axes
        return InvalidArgumentError(
            f"{name}: got shape {array.shape}, expected {expected}: x has shape {self.form.shape}"
            f" with channel {f'axis {axes[0]}' if len(axes) == 1 else f'axes {axes}'}"
        )


@functools.lru_cache(maxsize=1024)
def options_of(**settings: Any) -> Options:
    """The Options of a call's settings. Raises TypeError, naming it, for one that is unknown."""
    unknown = sorted(settings.keys() - set(Settings._fields))
    if unknown:
        raise TypeError(
            f"got an unexpected argument {unknown[0]!r}, expected one that the function names, or"
            f" one of the settings {', '.join(Settings._fields)}"
        )
    return core_options(Settings(**settings))


def dense_copy(library: ArrayLibrary[A], array: A, order: Axes | None) -> A:
    """A copy that lies in memory with its axes in this order; None: row-major."""
    copy = empty_in_order(library, array.shape, array.dtype, order)
    library.assign(copy, array)
    return copy


def empty_in_order(
    library: ArrayLibrary[A], shape: tuple[int, ...], dtype: Any, order: Axes | None
) -> A:
    if order is None:
        return library.empty(shape, dtype)
    array = library.empty(tuple(shape[a] for a in order), dtype)
    transposed: A = array.transpose(sorted(range(len(order)), key=order.__getitem__))
    return transposed
