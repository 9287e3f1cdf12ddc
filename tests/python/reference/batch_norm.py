"""The definition of synchronized batch normalization, forward and backward.

Shards stand for ranks. x is (N, C, S) on each; statistics are per channel over the whole list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Real = np.longdouble
Array = np.ndarray


@dataclass(frozen=True)
class Policy:
    """The options that change a number. Names and values are those of syncnorm.Options."""

    eps: float = 1e-5
    momentum: float | None = 0.1  # None: cumulative average
    weighting: str = "count"
    eps_mode: str = "add"
    variance_factor: str = "unbiased"
    grad_reduction: str = "local"
    activation: str = "identity"
    negative_slope: float = 0.01
    in_place: bool = False  # here it changes nothing but small weights


@dataclass(frozen=True)
class Shard:
    """What one rank holds: x and residual (N, C, S), mask (N, S) with 0 for what does not count."""

    x: Array
    mask: Array | None = None
    residual: Array | None = None

    def counted(self) -> Array:
        """(N, 1, S) of 0 and 1, broadcastable against x."""
        n, _, s = self.x.shape
        if self.mask is None:
            return np.ones((n, 1, s), Real)
        return (np.asarray(self.mask).reshape(n, 1, s) != 0).astype(Real)

    def count(self) -> int:
        return int(self.counted().sum())


@dataclass(frozen=True)
class Forward:
    """Group statistics [C], and per shard: y, the value before the activation, xhat, c_d."""

    mean: Array
    var: Array
    invstd: Array
    gate: Array
    counts: list[int]
    coefficients: list[Array]
    xhat: list[Array]
    pre: list[Array]
    y: list[Array]


@dataclass(frozen=True)
class Backward:
    """Per shard. dweight and dbias are what the rank reports under Policy.grad_reduction."""

    dx: list[Array]
    dresidual: list[Array]
    dweight: list[Array]
    dbias: list[Array]


def real(values: Array) -> Array:
    return np.asarray(values).astype(Real)


def per_channel(values: Array | None, channels: int, default: float) -> Array:
    filled = np.full(channels, default) if values is None else values
    return real(filled).reshape(1, channels, 1)


def rank_weight(policy: Policy, shard: Shard) -> int:
    if shard.count() == 0:
        return 0
    return {"count": shard.count(), "equal": 1, "batch": shard.x.shape[0]}[policy.weighting]


def local_moments(shard: Shard) -> tuple[Array, Array]:
    """Mean and centred variance [C] of the counted values; zeros where there are none."""
    x, counted, n = real(shard.x), shard.counted(), shard.count()
    if n == 0:
        return np.zeros(x.shape[1], Real), np.zeros(x.shape[1], Real)
    mean = masked(x, counted).sum(axis=(0, 2)) / n
    # The second sum removes what the rounding of the first left, even where mean >> std.
    mean = mean + masked(x - mean[None, :, None], counted).sum(axis=(0, 2)) / n
    centred = masked(x - mean[None, :, None], counted)
    return mean, (centred**2).sum(axis=(0, 2)) / n


def masked(values: Array, counted: Array) -> Array:
    """values where counted, 0 elsewhere; a NaN that does not count does not spread."""
    return np.where(counted != 0, values, Real(0))


def group_moments(policy: Policy, shards: Sequence[Shard]) -> tuple[Array, Array]:
    weights = [rank_weight(policy, shard) for shard in shards]
    total = sum(weights)
    if total == 0:  # no values, or a mask that lets none count: an untouched buffer's statistics
        channels = shards[0].x.shape[1]
        return np.zeros(channels, Real), np.ones(channels, Real)
    moments = [local_moments(shard) for shard in shards]
    pairs = [(w, *m) for w, m in zip(weights, moments, strict=True) if w > 0]
    # One division at the end: the mean of integers that is an integer comes out as that.
    mean = sum(w * m for w, m, _ in pairs) / Real(total)
    var = sum(w * (v + (m - mean) ** 2) for w, m, v in pairs) / Real(total)
    return mean, var


def inverse_std(policy: Policy, var: Array) -> tuple[Array, Array]:
    """invstd and the gate: 0 where eps_mode max has clamped the variance."""
    eps = Real(policy.eps)
    with np.errstate(divide="ignore"):
        if policy.eps_mode == "add":
            return 1 / np.sqrt(var + eps), np.ones_like(var)
        return 1 / np.sqrt(np.maximum(var, eps)), np.where(var < eps, Real(0), Real(1))


def activate(policy: Policy, pre: Array) -> Array:
    if policy.activation == "identity":
        return pre
    if policy.activation == "elu":
        below = np.expm1(np.minimum(pre, 0))
    else:
        below = pre * Real(negative_slope(policy))
    return np.where(pre <= 0, below, pre)


def slope(policy: Policy, pre: Array) -> Array:
    """Derivative of the activation: 1 above zero, the negative side's at zero and below."""
    if policy.activation == "identity":
        return np.ones_like(pre)
    if policy.activation == "elu":
        below = np.exp(np.minimum(pre, 0))
    else:
        below = Real(negative_slope(policy))
    return np.where(pre <= 0, below, Real(1))


def negative_slope(policy: Policy) -> float:
    """Of relu and leaky_relu."""
    return policy.negative_slope if policy.activation == "leaky_relu" else 0.0


def applied_weight(policy: Policy, weight: Array | None, channels: int) -> Array:
    """The weight as (1, C, 1). In place it is divided by: never nearer to zero than 2^-12."""
    gamma = per_channel(weight, channels, 1)
    if not policy.in_place:
        return gamma
    least = Real(2) ** -12
    return np.where(np.abs(gamma) < least, np.where(gamma < 0, -least, least), gamma)


def forward(
    policy: Policy,
    shards: Sequence[Shard],
    weight: Array | None = None,
    bias: Array | None = None,
) -> Forward:
    mean, var = group_moments(policy, shards)
    return normalize(policy, shards, mean, var, weight, bias)


def infer(
    policy: Policy,
    shard: Shard,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
) -> Forward:
    """With given statistics; frozen training does the same."""
    return normalize(policy, [shard], real(running_mean), real(running_var), weight, bias)


def normalize(
    policy: Policy,
    shards: Sequence[Shard],
    mean: Array,
    var: Array,
    weight: Array | None,
    bias: Array | None,
) -> Forward:
    channels = mean.size
    invstd, gate = inverse_std(policy, var)
    gamma, beta = applied_weight(policy, weight, channels), per_channel(bias, channels, 0)
    xhat = [(real(s.x) - mean[None, :, None]) * invstd[None, :, None] for s in shards]
    pre = [h * gamma + beta for h in xhat]
    pre = [
        p if s.residual is None else p + real(s.residual) for p, s in zip(pre, shards, strict=True)
    ]
    counts = [s.count() for s in shards]
    weights = [rank_weight(policy, s) for s in shards]
    coefficients = [
        Real(w) / (Real(sum(weights)) * n) if n else Real(0)
        for w, n in zip(weights, counts, strict=True)
    ]
    y = [activate(policy, p) for p in pre]
    return Forward(mean, var, invstd, gate, counts, coefficients, xhat, pre, y)


def variance_factor(policy: Policy, counts: Sequence[int], rank: int) -> Array:
    """What the batch variance is multiplied by on its way into running_var on `rank`."""
    count = {
        "unbiased": sum(counts),
        "biased": 0,
        "unbiased_local": counts[rank] * len(counts),
        "unbiased_rank": counts[rank],
    }[policy.variance_factor]
    return Real(count) / Real(count - 1) if count > 1 else Real(1)


def update_running(
    policy: Policy,
    statistics: Forward,
    rank: int,
    running_mean: Array,
    running_var: Array,
    batches: int = 0,
) -> tuple[Array, Array, int]:
    """The rank's running statistics and count of batches after this one."""
    if sum(statistics.counts) == 0:
        return real(running_mean), real(running_var), batches
    step = Real(1) / (batches + 1) if policy.momentum is None else Real(policy.momentum)
    factor = variance_factor(policy, statistics.counts, rank)
    new_mean = (1 - step) * real(running_mean) + step * statistics.mean
    new_var = (1 - step) * real(running_var) + step * statistics.var * factor
    return new_mean, new_var, batches + 1


def backward(
    policy: Policy,
    statistics: Forward,
    shards: Sequence[Shard],
    dy: Sequence[Array],
    weight: Array | None = None,
) -> Backward:
    """The gradient of sum(y*dy) over all shards. `statistics` is the result of forward."""
    through, local_beta, local_gamma = gradient_sums(policy, statistics, dy)
    sum_beta, sum_gamma = sum(local_beta), sum(local_gamma)
    gamma = applied_weight(policy, weight, statistics.mean.size)
    scale = gamma * statistics.invstd[None, :, None]
    dx = []
    for d, shard in enumerate(shards):
        pull = (
            sum_beta[None, :, None]
            + statistics.xhat[d] * (sum_gamma * statistics.gate)[None, :, None]
        )
        dx.append(scale * (through[d] - shard.counted() * statistics.coefficients[d] * pull))
    dweight = reduce_gradients(policy, local_gamma)
    return Backward(dx, through, dweight, reduce_gradients(policy, local_beta))


def infer_backward(
    policy: Policy, statistics: Forward, dy: Array, weight: Array | None = None
) -> Backward:
    """The gradient where the statistics are constants. `statistics` is the result of infer."""
    through, local_beta, local_gamma = gradient_sums(policy, statistics, [dy])
    gamma = applied_weight(policy, weight, statistics.mean.size)
    dx = [gamma * statistics.invstd[None, :, None] * through[0]]
    return Backward(dx, through, local_gamma, local_beta)


def gradient_sums(
    policy: Policy, statistics: Forward, dy: Sequence[Array]
) -> tuple[list[Array], list[Array], list[Array]]:
    """Per shard: dy through the activation, its sum and its sum with xhat, over all positions."""
    through = [real(g) * slope(policy, p) for g, p in zip(dy, statistics.pre, strict=True)]
    local_beta = [t.sum(axis=(0, 2)) for t in through]
    local_gamma = [(t * h).sum(axis=(0, 2)) for t, h in zip(through, statistics.xhat, strict=True)]
    return through, local_beta, local_gamma


def reduce_gradients(policy: Policy, local: list[Array]) -> list[Array]:
    if policy.grad_reduction == "local":
        return local
    total = sum(local) / (len(local) if policy.grad_reduction == "mean" else 1)
    return [total] * len(local)
