"""The derivative of the backward pass, in torch operations, with one more sum over the group.

docs/mathematics.md has the formulas, and the letters that are used here. What there is per value is
computed in float32 (float64 for float64 input); sums, and what there is per channel, in float64.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import torch
from torch import Tensor

from syncnorm import DesyncError, Options, UnsupportedError

from . import bridge
from .launch import placement
from .phases import Backward, Call, Steps, SumWires, in_step


class Cotangents(NamedTuple):
    """Of the results of a shard's backward pass, in their shapes; None: zero."""

    dx: Tensor | None
    dweight: Tensor | None
    dbias: Tensor | None
    dresidual: Tensor | None


class Derivatives(NamedTuple):
    """By what a shard's backward pass was given; None where that was not given."""

    dy: Tensor
    x: Tensor
    weight: Tensor | None
    y: Tensor | None


def backward(
    call: Call,
    shards: list[Backward],
    cotangents: list[Cotangents],
    bent: list[Tensor | None],
    sum_wires: SumWires,
) -> list[Derivatives]:
    """The second derivatives of every shard.

    bent: y of every shard if the slope of the activation depends on it by more than its sign.
    All ranks of a group call it alike, whatever they need: their wires have the same length.
    Raises DesyncError where they are in different calls; on CUDA devices, where nothing waits for
    the device, the derivatives are NaN instead.
    """
    if call.options.in_place:
        raise UnsupportedError(
            "the second derivative of a batch normalization with in_place=True was asked for, whose"
            " input is overwritten; expected first derivatives only, or in_place=False"
        )
    each = zip(shards, cotangents, bent, strict=True)
    return in_step([_steps(call, *one) for one in each], sum_wires)


class _Sums(NamedTuple):
    """A, B, G, Sb and Sg of a shard or of the group, per channel."""

    a: Tensor
    b: Tensor
    g: Tensor
    sb: Tensor
    sg: Tensor


class _Parameters(NamedTuple):
    """Per channel: the cotangents of dweight and dbias, and the group's sums of p times these."""

    p: Tensor
    q: Tensor
    p_dweight: Tensor
    p_dbias: Tensor


def _steps(call: Call, shard: Backward, cotangents: Cotangents, bent: Tensor | None) -> Steps:
    values = _Values(call.options, shard, cotangents)
    own = values.sums()
    p, q = _of_parameter(cotangents.dweight, own.sg), _of_parameter(cotangents.dbias, own.sb)
    local = call.options.grad_reduction == "local"
    total = yield _wire(call, own, (p * own.sg, p * own.sb) if local else (p, q))
    *sums, first, second = _agreed(total, call.group_size)[2:].view(7, len(p))
    group = _Sums(*sums)
    if local:
        parameters = _Parameters(p, q, first, second)
        by_r = values.by_r(own, group)
    else:
        share = 1 / call.group_size if call.options.grad_reduction == "mean" else 1
        p, q = share * first, share * second
        parameters = _Parameters(p, q, p * group.sg, p * group.sb)
        by_r = share * values.by_r(group, group)
    by_dz = values.by_dz(group, parameters)
    x, dy, weight = shard.x, shard.dy, shard.weight
    return Derivatives(
        values.times_slope(by_dz).to(dy.dtype),
        values.by_x(group, parameters).to(x.dtype),
        None if weight is None else (values.invstd * by_r).to(weight.dtype),
        # The slope of elu below 0 is y + 1.
        None if bent is None else torch.where(bent < 0, by_dz * dy, 0).to(bent.dtype),
    )


class _Values:
    """What a shard's backward pass computes with. dz is dy through the activation."""

    def __init__(self, options: Options, shard: Backward, cotangents: Cotangents) -> None:
        x, weight = shard.x, shard.weight
        self._dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self._per_channel = (-1, *[1] * (x.dim() - 2))
        self._mask = None if shard.mask is None else shard.mask.unsqueeze(1) != 0
        self._slope = _slope(options, shard, self._dtype)
        self.c = shard.saved[0]
        mean, self.invstd, self.gate = shard.saved[2:].view(3, x.shape[1])
        self.r = self.invstd if weight is None else self.invstd * weight.double()
        self.xhat = self._standardized(x, mean)
        self.dz = self.times_slope(shard.dy.to(self._dtype))
        u, self.v = cotangents.dx, cotangents.dresidual
        self.u = torch.zeros_like(self.dz) if u is None else u.to(self._dtype)

    def sums(self) -> _Sums:
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
        """Of the weights, as if each rank had its own, that of this part of the group."""
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
        """How by_dz grows with xhat, and by_xhat with dz."""
        k: Tensor = parameters.p - self.r * self.gate * group.g
        return k

    def _combined(self, of_u: Tensor, of_xhat: Tensor, constant: Tensor) -> Tensor:
        scaled = self._spread(of_u) * self.u + self._spread(of_xhat) * self.xhat
        return scaled + self._spread(constant)

    def _standardized(self, x: Tensor, mean: Tensor) -> Tensor:
        """xhat. The mean keeps its precision beside values of less."""
        hi = mean.to(self._dtype)
        lo = mean - hi
        return (x.to(self._dtype) - self._spread(hi) - self._spread(lo)) * self._spread(self.invstd)

    def _spread(self, channels: Tensor) -> Tensor:
        return channels.to(self._dtype).view(self._per_channel)

    def _counted(self, values: Tensor) -> Tensor:
        return values if self._mask is None else torch.where(self._mask, values, 0)


def _sum(values: Tensor) -> Tensor:
    """Per channel, in float64."""
    return values.sum([0, *range(2, values.dim())], dtype=torch.float64)


def _slope(options: Options, shard: Backward, dtype: torch.dtype) -> Tensor | None:
    """Of the activation at every value, None for 1: what the core makes of a gradient of 1."""
    if options.activation == "identity":
        return None
    x, y = shard.x.to(dtype), None if shard.y is None else shard.y.to(dtype)
    slope = torch.empty_like(x)
    bridge.infer_backward(
        options,
        x,
        torch.ones_like(x),
        shard.saved,
        dresidual=slope,
        weight=shard.weight,
        bias=shard.bias,
        y=y,
        **placement(x, bridge.sizes(x, options).workspace),
    )
    return slope


def _of_parameter(cotangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if cotangent is None else cotangent.double()


def _hash(call: Call, channels: int) -> int:
    """From 1 to 65535, for what ranks that make this call together have in common."""
    common = f"second order {call.tag} {channels} {call.options.grad_reduction}"
    return 1 + zlib.crc32(common.encode()) % 65535


def _wire(call: Call, own: _Sums, products: tuple[Tensor, Tensor]) -> Tensor:
    h = _hash(call, len(own.a))
    header = [own.a.new_full((1,), value) for value in (h, h * h)]
    return torch.cat([*header, *own, *products])


def _agreed(total: Tensor, group_size: int) -> Tensor:
    """The total where all ranks have sent the same hash; docs/mathematics.md says why."""
    agree = group_size * total[1] == total[0] ** 2
    if total.is_cuda:
        return torch.where(agree, total, torch.nan)
    if not agree:
        raise DesyncError(
            "the ranks of a group are in different calls: got wires with different hashes in a"
            " second derivative, expected every rank to take the second derivatives of the same"
            " layers in the same order"
        )
    return total
