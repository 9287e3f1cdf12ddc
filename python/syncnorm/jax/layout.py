"""Maps an array with any channel axis to the core's (N, C, S) or (N, S, C)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import ArgumentTypeError, InvalidArgumentError, UnsupportedError, _core
from syncnorm.settings import Settings, core_options

# The dtypes of per-channel arrays for float64 x, and for other x.
_WIDE = ("float32", "float64")
_NARROW = ("float16", "bfloat16", "float32")


def check_array(value: Any, name: str) -> Array:
    """Return value; raise ArgumentTypeError unless it is an array of JAX or NumPy."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "reshape")):
        raise ArgumentTypeError(f"{name}: got {type(value).__name__}, expected a jax.Array")
    array: Array = value
    return array


def result(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Return the description of a result of a foreign function call."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


class Layout(NamedTuple):
    """The shape, channel axis and dtype of x, from which the other arrays are checked.

    Attributes:
        shape: The shape of x.
        axis: Its channel axis, counted from 0.
        dtype: The name of its dtype.
    """

    shape: tuple[int, ...]
    axis: int
    dtype: str

    @classmethod
    def of(cls, x: Array, axis: int) -> Layout:
        check_array(x, "x")
        if isinstance(axis, bool) or not isinstance(axis, SupportsIndex):
            raise ArgumentTypeError(f"axis: got {axis!r}, expected an integer")
        if not -x.ndim <= axis < x.ndim:
            raise InvalidArgumentError(
                f"axis: got {axis}, expected one of the {x.ndim} axes of x, which has shape"
                f" {x.shape}"
            )
        allowed: tuple[str, ...] = ("float16", "bfloat16", "float32")
        if jax.config.jax_enable_x64:  # type: ignore[attr-defined]
            allowed += ("float64",)
        if x.dtype.name not in allowed:
            raise InvalidArgumentError(
                f"x: got {x.dtype.name}, expected one of {', '.join(allowed)}"
                + (", or jax_enable_x64" if x.dtype.name == "float64" else "")
            )
        return cls(x.shape, axis % x.ndim, x.dtype.name)

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def channels_last(self) -> bool:
        """Whether the core takes (N, S, C).

        An array that is dense in both layouts, such as an empty one, is channels first, as
        `_core.sizes` reads it from the strides.
        """
        dense_in_both = 0 in self.shape or 1 in (self.channels, math.prod(self.shape[1:-1]))
        return self._last_axis and not dense_in_both

    @property
    def _last_axis(self) -> bool:
        return 1 < self.axis == len(self.shape) - 1

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The shape of x without the channel axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def core_shape(self) -> tuple[int, int, int]:
        """(N, C, S), or (N, S, C) with channels last. S may be 1."""
        if self.channels_last:
            return self.shape[0], math.prod(self.shape[1:-1]), self.channels
        if self._last_axis:
            return self.shape[0], self.channels, math.prod(self.shape[1:-1])
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return math.prod(before), self.channels, math.prod(after)

    def data(self, array: Array | None, name: str) -> Array | None:
        """Check an array of x's shape and dtype, and reshape it for the core without a copy."""
        if array is None:
            return None
        check_array(array, name)
        if array.shape != self.shape or array.dtype.name != self.dtype:
            raise InvalidArgumentError(
                f"{name}: got shape {array.shape} and {array.dtype.name}, expected those of x,"
                f" {self.shape} and {self.dtype}"
            )
        return array.reshape(self.core_shape)

    def data_result(self) -> jax.ShapeDtypeStruct:
        """Return the description of a result with x's size and dtype, in the core's shape."""
        return result(self.core_shape, self.dtype)

    def vector(self, array: Array | None, name: str) -> Array | None:
        """Check a per-channel array."""
        if array is None:
            return None
        check_array(array, name)
        if array.shape != (self.channels,):
            raise InvalidArgumentError(
                f"{name}: got shape {array.shape}, expected ({self.channels},), a value per"
                f" channel: x has shape {self.shape} with channel axis {self.axis}"
            )
        allowed = _WIDE if self.dtype == "float64" else _NARROW
        if array.dtype.name not in allowed:
            raise InvalidArgumentError(
                f"{name}: got {array.dtype.name}, expected one of {', '.join(allowed)}: x is"
                f" {self.dtype}"
            )
        return array

    def mask(self, mask: Array | None) -> Array | None:
        """Check a mask and broadcast it to x's shape without the channel axis."""
        if mask is None:
            return None
        check_array(mask, "mask")
        if mask.dtype.name not in ("bool", "uint8"):
            raise InvalidArgumentError(f"mask: got {mask.dtype.name}, expected bool or uint8")
        squeezed = mask
        if mask.ndim == len(self.shape) and mask.shape[self.axis] == 1:
            squeezed = mask.squeeze(self.axis)
        fits = squeezed.ndim == len(self.mask_shape) and all(
            got in (1, size) for got, size in zip(squeezed.shape, self.mask_shape, strict=True)
        )
        if not fits:
            raise InvalidArgumentError(
                f"mask: got shape {mask.shape}, expected {self.mask_shape}, where axes of length 1"
                f" are broadcast: x has shape {self.shape} with channel axis {self.axis}"
            )
        return jnp.broadcast_to(squeezed, self.mask_shape)

    def sizes(self, settings: Settings) -> _core.Sizes:
        """Return the core's sizes on the CPU. Only the workspace depends on the device."""
        return _core.sizes(self._array("cpu"), core_options(settings))

    def workspace_size(self, settings: Settings) -> int:
        """Return bytes that are enough on the CPU and on CUDA.

        While tracing it is not known which device will run the call.
        """
        size = self.sizes(settings).workspace
        try:
            on_cuda = _core.sizes(self._array("cuda"), core_options(settings))
        except UnsupportedError:  # built without CUDA
            return size
        return max(size, on_cuda.workspace)

    def _array(self, device: str) -> _core.Array:
        """Return the metadata of x as (N, C, S), without memory."""
        if self.channels_last:
            n, s, c = self.core_shape
            strides = (s * c, 1, c)
        else:
            n, c, s = self.core_shape
            strides = (c * s, s, 1)
        return _core.Array(0, (n, c, s), strides, self.dtype, device)
