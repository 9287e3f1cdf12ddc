"""How the core sees an array: samples, channels and positions."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from syncnorm import InvalidArgumentError, UnsupportedError, _core
from syncnorm.settings import Settings, core_options


def result(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """What a call is to make."""
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


class Form(NamedTuple):
    """The shape and dtype of x, and which axis has its channels."""

    shape: tuple[int, ...]
    axis: int  # counted from the first
    dtype: str

    @classmethod
    def of(cls, x: Array, axis: int) -> Form:
        if not -x.ndim <= axis < x.ndim:
            raise InvalidArgumentError(
                f"axis: got {axis}, expected one of the {x.ndim} axes of x, which has shape"
                f" {x.shape}"
            )
        return cls(x.shape, axis % x.ndim, x.dtype.name)

    @property
    def channels(self) -> int:
        return self.shape[self.axis]

    @property
    def channels_last(self) -> bool:
        return 1 < self.axis == len(self.shape) - 1

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape without the channels: that of a mask."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def flat_shape(self) -> tuple[int, int, int]:
        """(N, C, S), or (N, S, C) where the channels are last. S may be 1."""
        if self.channels_last:
            return self.shape[0], math.prod(self.shape[1:-1]), self.channels
        before, after = self.shape[: self.axis], self.shape[self.axis + 1 :]
        return math.prod(before), self.channels, math.prod(after)

    def flat(self, array: Array | None, name: str) -> Array | None:
        """An array of x's shape and dtype as the core takes it, without a copy."""
        if array is None:
            return None
        if array.shape != self.shape or array.dtype.name != self.dtype:
            raise InvalidArgumentError(
                f"{name}: got shape {array.shape} and {array.dtype.name}, expected those of x,"
                f" {self.shape} and {self.dtype}"
            )
        return array.reshape(self.flat_shape)

    def like_x(self) -> jax.ShapeDtypeStruct:
        """A result that has x's values, in the core's form."""
        return result(self.flat_shape, self.dtype)

    def vector(self, array: Array | None, name: str) -> Array | None:
        """A parameter or statistic: one value for each channel."""
        if array is not None and array.shape != (self.channels,):
            raise InvalidArgumentError(
                f"{name}: got shape {array.shape}, expected ({self.channels},): one value for each"
                f" channel of x, which has shape {self.shape} and its channels on axis {self.axis}"
            )
        return array

    def mask(self, mask: Array | None) -> Array | None:
        """A mask in the shape of the positions; sizes of 1 stand for all positions."""
        if mask is None:
            return None
        if mask.dtype.name not in ("bool", "uint8"):
            raise InvalidArgumentError(f"mask: got {mask.dtype.name}, expected bool or uint8")
        squeezed = mask
        if mask.ndim == len(self.shape) and mask.shape[self.axis] == 1:
            squeezed = mask.squeeze(self.axis)
        fits = squeezed.ndim == len(self.positions) and all(
            got in (1, size) for got, size in zip(squeezed.shape, self.positions, strict=True)
        )
        if not fits:
            raise InvalidArgumentError(
                f"mask: got shape {mask.shape}, expected {self.positions}, x's without its"
                f" channels, where any size may be 1; x has shape {self.shape}"
            )
        return jnp.broadcast_to(squeezed, self.positions)

    def sizes(self, settings: Settings) -> _core.Sizes:
        """What the core's vectors measure on the CPU."""
        return _core.sizes(self._array("cpu"), core_options(settings))

    def workspace_size(self, settings: Settings) -> int:
        """Bytes, enough for every device that may run what is traced now."""
        size = self.sizes(settings).workspace
        try:
            on_cuda = _core.sizes(self._array("cuda"), core_options(settings))
        except UnsupportedError:  # built without CUDA
            return size
        return max(size, on_cuda.workspace)

    def _array(self, device: str) -> Any:
        """x as a logical (N, C, S) without memory."""
        if self.channels_last:
            n, s, c = self.flat_shape
            strides = (s * c, 1, c)
        else:
            n, c, s = self.flat_shape
            strides = (c * s, s, 1)
        return _core.Array(0, (n, c, s), strides, self.dtype, device)
