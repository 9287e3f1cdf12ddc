"""The derivative of the backward pass, in torch operations, with one more all-reduce.

docs/mathematics.md has the formulas and defines the letters used here. Values are computed in
float32 (float64 for float64 input), sums and everything per channel in float64.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from syncnorm import DesyncError, Options, UnsupportedError
from syncnorm.torch.ops import kernels

from .autograd import GRAD_DUMMY, Pass, Shard, Tensors, refuse_batched, shards_of


def differentiable(first: Callable[..., Tensors], this: Pass, tag: int, *tensors: Any) -> Tensors:
    """Return first(*tensors), the gradients of a backward pass, with a derivative.

    Args:
        first: Returns the gradients of weight, bias, xs and residuals.
        this: The call; every rank of its group takes part in the second derivative.
        tag: That of the forward pass, for messages.
        tensors: dys and the saved tensors, as `shards_of` reads them.
    """
    dummy = GRAD_DUMMY if this[1].synchronized else None
    gradients: Tensors = _FirstDerivative.apply(  # type: ignore[no-untyped-call]
        first, this, tag, dummy, *tensors
    )
    return gradients


class _FirstDerivative(Function):
    @staticmethod
    def forward(
        ctx: Any, first: Callable[..., Tensors], this: Pass, tag: int, _: Any, *tensors: Any
    ) -> Tensors:
        ctx.call = this, tag
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return first(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Tensors:
        refuse_batched(*cotangents)
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            derivatives: Tensors = _SecondDerivative.apply(  # type: ignore[no-untyped-call]
                *ctx.call, len(cotangents), *cotangents, *tensors
            )
        else:
            this, tag = ctx.call
            derivatives = _second(this, tag, cotangents, tensors)
        return None, None, None, None, *derivatives


class _SecondDerivative(Function):
    """Recorded so that a request for the third derivative is refused."""

    @staticmethod
    def forward(ctx: Any, this: Pass, tag: int, count: int, *tensors: Tensor | None) -> Tensors:
        return _second(this, tag, tensors[:count], tensors[count:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise UnsupportedError(
            "the third derivative of syncnorm.torch's batch normalization was requested; expected"
            " first and second ones: take second derivatives without create_graph=True"
        )


def _second(this: Pass, tag: int, cotangents: Tensors, tensors: Tensors) -> Tensors:
    """Return the derivatives by `tensors` from the cotangents of what a backward pass returned.

    All ranks of a group call this alike, whatever they need: their wires have the same length.

    Raises:
        DesyncError: The ranks are in different calls. On CUDA devices, which nothing waits for, the
            derivatives are NaN instead.
    """
    options, group, *_ = this
    if options.in_place:
        raise UnsupportedError(
            "the second derivative of a batch normalization with in_place=True was requested, which"
            " overwrites its input; expected first derivatives only, or in_place=False"
        )
    shards = shards_of(this, tensors)
    count, x = len(shards), shards[0][0]
    dweight, dbias = cotangents[:2]  # of the first shard, which reports them
    shares = [
        (dx, *((dweight, dbias) if index == 0 else (None, None)), dresidual)
        for index, (dx, dresidual) in enumerate(
            zip(cotangents[2 : 2 + count], cotangents[2 + count :], strict=True)
        )
    ]
    parts = [_Part(this, *both) for both in zip(shards, shares, strict=True)]
    wires = [part.wire() for part in parts]
    group.begin("second backward", tag, options, x)
    try:
        totals = group.all_reduce(wires)
        derivatives = [part.derivatives(total) for part, total in zip(parts, totals, strict=True)]
    except BaseException as error:
        group.fail(error, "second backward", x)
        raise
    group.end()
    dys, xs, weights, ys = zip(*derivatives, strict=True)
    # In the order of `tensors`: dys, weight, bias, and by column x, saved [, mask, y, curved].
    found = (*dys, weights[0], None, *xs, *[None] * (3 * count), *ys)
    return found[: len(tensors)]


class _Sums(NamedTuple):
    """A, B, G, Sb and Sg of one shard or of the group, per channel."""

    a: Tensor
    b: Tensor
    g: Tensor
    sb: Tensor
    sg: Tensor


class _Parameters(NamedTuple):
    """Per channel: the cotangents of dweight and dbias, and the group's sums of each times p."""

    p: Tensor
    q: Tensor
    p_dweight: Tensor
    p_dbias: Tensor


class _Part:
    """The second derivative of one shard. dz is dy through the activation."""

    def __init__(self, this: Pass, shard: Shard, cotangents: Tensors) -> None:
        options, group, *_ = this
        x, dy, saved, weight, _, _, mask, self._curved = shard
        self._size, self._shard = group.size, shard
        self._dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self._per_channel = (-1, *[1] * (x.dim() - 2))
        self._mask = None if mask is None else mask.unsqueeze(1) != 0
        self._slope = _slope(options, shard, self._dtype)
        self.c = saved[0]
        common = f"second order {x.shape[1]} {options.grad_reduction}".encode()
        # saved[1] is the hash of the forward pass, which this one belongs to.
        self._hash = 1 + (saved[1] * 40507 + zlib.crc32(common) % 65535).remainder(65535)
        mean, self.invstd, self.gate = saved[2:].view(3, x.shape[1])
        self.r = self.invstd if weight is None else self.invstd * weight.double()
        self.xhat = self._standardized(x, mean)
        self.dz = self.times_slope(dy.to(self._dtype))
        u, by_weight, by_bias, self.v = cotangents
        self.u = torch.zeros_like(self.dz) if u is None else u.to(self._dtype)
        self._own = self._sums()
        self._p = _of_parameter(by_weight, self._own.sg)
        self._q = _of_parameter(by_bias, self._own.sb)
        self._reduction = options.grad_reduction

    def wire(self) -> Tensor:
        """Return this shard's wire, 7C + 2 values."""
        own, p, q = self._own, self._p, self._q
        products = (p * own.sg, p * own.sb) if self._reduction == "local" else (p, q)
        header = torch.stack((self._hash, self._hash**2))
        return torch.cat([header, *own, *products])

    def derivatives(self, total: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the derivatives by dy, x, weight and curved, from the sum of the wires."""
        (x, dy, _, weight, *_), curved = self._shard, self._curved
        p, q, size = self._p, self._q, self._size
        total = _agreed(self._hash, total, size)[2 : 2 + 7 * len(p)]
        *sums, first, second = total.view(7, len(p))
        group = _Sums(*sums)
        if self._reduction == "local":
            parameters = _Parameters(p, q, first, second)
            by_r = self.by_r(self._own, group)
        else:
            share = 1 / size if self._reduction == "mean" else 1
            p, q = share * first, share * second
            parameters = _Parameters(p, q, p * group.sg, p * group.sb)
            by_r = share * self.by_r(group, group)
        by_dz = self.by_dz(group, parameters)
        return (
            self.times_slope(by_dz).to(dy.dtype),
            self.by_x(group, parameters).to(x.dtype),
            None if weight is None else (self.invstd * by_r).to(weight.dtype),
            # The slope of elu below 0 is y + 1.
            None if curved is None else torch.where(curved < 0, by_dz * dy, 0).to(curved.dtype),
        )

    def _sums(self) -> _Sums:
        counted = self._counted(self.u)
        return _Sums(
            a=_sum(self.u * self.dz),
            b=self.c * _sum(counted),
            g=self.c * _sum(counted * self.xhat),
            sb=_sum(self.dz),
            sg=_sum(self.dz * self.xhat),
        )

    def by_dz(self, group: _Sums, parameters: _Parameters) -> Tensor:
        k = self._k(group, parameters)
        by_dz = self._combined(self.r, k, parameters.q - self.r * group.b)
        if self.v is not None:
            by_dz += self.v
        return by_dz

    def by_r(self, part: _Sums, group: _Sums) -> Tensor:
        """Return the derivative by r of `part`, as if each rank had its own weights."""
        through_sums: Tensor = group.b * part.sb + self.gate * group.g * part.sg
        return part.a - through_sums

    def by_x(self, group: _Sums, parameters: _Parameters) -> Tensor:
        gated = self.r * self.gate
        h = parameters.p_dbias - gated * (group.sg * group.b + group.g * group.sb)
        h_xhat = parameters.p_dweight - 2 * gated * group.sg * group.g
        of_xhat = self.gate * (h_xhat + self.r * self.by_r(group, group))
        through_statistics = self._counted(self._combined(gated * group.sg, of_xhat, h))
        of_dz = self._spread(self.invstd * self._k(group, parameters))
        return of_dz * self.dz - self._spread(self.invstd * self.c) * through_statistics

    def times_slope(self, values: Tensor) -> Tensor:
        return values if self._slope is None else values * self._slope

    def _k(self, group: _Sums, parameters: _Parameters) -> Tensor:
        """Return the derivative of by_dz by xhat, which is also that of by_xhat by dz."""
        k: Tensor = parameters.p - self.r * self.gate * group.g
        return k

    def _combined(self, of_u: Tensor, of_xhat: Tensor, constant: Tensor) -> Tensor:
        scaled = self._spread(of_u) * self.u + self._spread(of_xhat) * self.xhat
        return scaled + self._spread(constant)

    def _standardized(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return xhat; the mean keeps its float64 precision."""
        hi = mean.to(self._dtype)
        lo = mean - hi
        return (x.to(self._dtype) - self._spread(hi) - self._spread(lo)) * self._spread(self.invstd)

    def _spread(self, channels: Tensor) -> Tensor:
        return channels.to(self._dtype).view(self._per_channel)

    def _counted(self, values: Tensor) -> Tensor:
        return values if self._mask is None else torch.where(self._mask, values, 0)


def _sum(values: Tensor) -> Tensor:
    """Return the sum per channel, in float64."""
    return values.sum([0, *range(2, values.dim())], dtype=torch.float64)


def _slope(options: Options, shard: Shard, dtype: torch.dtype) -> Tensor | None:
    """Return the slope of the activation at every value; None for 1."""
    if options.activation == "identity":
        return None
    # The core's gradient of the residual for a gradient of 1.
    x, _, saved, weight, bias, y, _, _ = shard
    x, y = x.to(dtype), None if y is None else y.to(dtype)
    given = (weight, bias, torch.ones_like(x), saved, y)
    return kernels.infer_backward(options, x, (False, False, False, True), *given)[3]


def _of_parameter(cotangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if cotangent is None else cotangent.double()


def _agreed(h: Tensor, total: Tensor, group_size: int) -> Tensor:
    """Return the total if all ranks have sent the hash h; docs/mathematics.md has the reason."""
    agree = (total[0] == group_size * h) & (total[1] == group_size * h**2)
    if total.is_cuda:
        return torch.where(agree, total, torch.nan)
    if not agree:
        raise DesyncError(
            "the ranks of a group are in different calls: got wires with different hashes in a"
            " second derivative, expected every rank to take the second derivatives of the same"
            " layers in the same order"
        )
    return total
