"""How far a result may be from the reference: derived from what was added, never a loose constant.

Notation: u is half an ulp of the dtype that is written, a of the arithmetic (float32 for 16- and
32-bit input, else float64), w = 2^-53 of the wire. Every rounding of an intermediate value v costs
a*|v|; K stands for how many such roundings a term sees and for the growth of blocked sums, and is
the same small number everywhere. In the order in which errors arise:

  mean     sums of x - shift with a shift among the values: K*a*spread, spread = max|x - mean_d|;
           then it is kept and added in float64: K*w*max|mean_d|.
  var      squares of the same differences: K*a*spread^2. The mean of each rank enters through its
           distance to the group's: 2*distance*err(mean) + err(mean)^2, and so do the means of the
           blocks that the sums are made of, spread/sqrt(BLOCK) away from mean_d. Without centring
           var is the difference of S(W*E2)/S(W) and mean^2, which are rounded in float64:
           2K*w*(mean^2 + var), that is (mean/std)^2 * 2^-53 in relative terms; twice K, because
           both are products of values that were rounded on the way.
  invstd   the range of 1/sqrt over var +- err(var), exactly: var near 0 needs no special case.
  xhat     |x - mean|*err(invstd) + invstd*(err(mean) + K*a*|x - mean|).
  y        |gamma|*err(xhat) + K*a*(|gamma*xhat| + |beta| + |residual|), then the final u*|y|.
  sums     S|dy'|*err(xhat) + K*a*S|dy'*xhat|, K*a*S|dy'|. Where the value before the activation is
           within its error of 0, dy' may go either way: |dy|*(1 - slope).
           elu has no such step: there dy' is off by |dy| times the error of its derivative,
           which is that of the value before it, or of y + 1 where y is read.
  dx       each of its three terms with the errors of its factors, then u*|dx|.

In place xhat is (z - beta)/gamma, where z is recovered from y: anywhere between what y - err(y) and
y + err(y) give, which is u*|z| for a line and more where elu is flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reference import Backward, Forward, Policy
from reference.batch_norm import (
    applied_weight,
    inverse_std,
    negative_slope,
    per_channel,
    reduce_gradients,
    variance_factor,
)
from support.cases import Case
from support.dtypes import TINY, UNIT

K = 6
BLOCK = 64  # values whose sums are kept in one accumulator at least
WIRE = UNIT["float64"]


@dataclass
class Bounds:
    """Errors allowed: per channel for the group, per shard for the rest."""

    mean: np.ndarray
    var: np.ndarray
    invstd: np.ndarray
    xhat: list[np.ndarray]
    pre: list[np.ndarray]
    y: list[np.ndarray]


def row(values: np.ndarray) -> np.ndarray:
    return values[None, :, None]


def written(error: np.ndarray, values: np.ndarray, dtype: str) -> np.ndarray:
    """The error after values +- error were written as dtype: half an ulp or subnormal more."""
    return error + UNIT[dtype] * (np.abs(values) + error) + TINY[dtype]


def statistics_bounds(case: Case, result: Forward) -> tuple[np.ndarray, np.ndarray]:
    """err(mean) and err(var) of the group."""
    spread = np.zeros(case.channels, np.longdouble)
    distance, largest = np.zeros_like(spread), np.zeros_like(spread)
    for shard in case.reference_shards:
        if shard.count() == 0:
            continue
        x = shard.x.astype(np.longdouble)
        local = np.where(shard.counted() != 0, x, 0).sum(axis=(0, 2)) / shard.count()
        spread = np.maximum(spread, np.abs(x - row(local)).max(axis=(0, 2)))
        between_blocks = np.abs(x - row(local)).max(axis=(0, 2)) / np.sqrt(
            min(BLOCK, shard.count())
        )
        distance = np.maximum(distance, np.abs(local - result.mean) + between_blocks)
        largest = np.maximum(largest, np.abs(local))
    a = UNIT[case.arithmetic]
    mean = K * (a * spread + WIRE * largest)
    wire = 0 if case.centred else 2 * WIRE * (result.mean**2 + result.var)
    var = K * (a * (spread**2 + result.var) + wire) + 2 * distance * mean + mean**2
    return mean, var


def invstd_bound(policy: Policy, result: Forward, var: np.ndarray, a: float) -> np.ndarray:
    high, _ = inverse_std(policy, np.maximum(result.var - var, 0))
    low, _ = inverse_std(policy, result.var + var)
    return np.maximum(high - result.invstd, result.invstd - low) + K * a * result.invstd


def forward_bounds(case: Case, result: Forward, *, given_statistics: bool = False) -> Bounds:
    """given_statistics: mean and var were not computed but given."""
    a, nothing = UNIT[case.arithmetic], np.zeros(case.channels, np.longdouble)
    computed = (nothing, nothing) if given_statistics else statistics_bounds(case, result)
    mean, var = computed
    invstd = invstd_bound(case.policy, result, var, a)
    gamma, beta = parameters(case)
    xhat, pre, y = [], [], []
    for d, shard in enumerate(case.reference_shards):
        away = np.abs(shard.x - row(result.mean))
        xhat.append(away * row(invstd) + row(result.invstd) * (row(mean) + K * a * away))
        terms = np.abs(gamma * result.xhat[d]) + np.abs(beta)
        terms = terms if shard.residual is None else terms + np.abs(shard.residual)
        pre.append(np.abs(gamma) * xhat[d] + K * a * terms)
        y.append(written(pre[d] * steepest(case.policy), result.y[d], case.dtype))
    return Bounds(mean, var, invstd, xhat, pre, y)


def parameters(case: Case) -> tuple[np.ndarray, np.ndarray]:
    weight = None if case.weight is None else case.weight.values
    bias = None if case.bias is None else case.bias.values
    gamma = applied_weight(case.policy, weight, case.channels)
    return gamma, per_channel(bias, case.channels, 0)


def steepest(policy: Policy) -> float:
    return max(1.0, policy.negative_slope) if policy.activation == "leaky_relu" else 1.0


def running_bounds(
    case: Case, result: Forward, bounds: Bounds, rank: int, new: Sequence[np.ndarray], step: float
) -> tuple[np.ndarray, np.ndarray]:
    """err of running_mean and running_var on `rank`; new: their reference values after the step."""
    a = UNIT[case.arithmetic]
    factor = variance_factor(case.policy, result.counts, rank)
    old = (case.running_mean, case.running_var)
    batch = ((result.mean, bounds.mean), (result.var * factor, bounds.var * factor))
    return tuple(
        written(
            step * error + K * a * ((1 - step) * np.abs(before.values) + step * np.abs(value)),
            after,
            before.dtype,
        )
        for before, (value, error), after in zip(old, batch, new, strict=True)
    )


def recovered(case: Case, result: Forward, bounds: Bounds) -> Bounds:
    """The bounds of the backward pass in place, whose xhat comes from y."""
    a, (gamma, beta) = UNIT[case.arithmetic], parameters(case)
    xhat = []
    for y, error, pre in zip(result.y, bounds.y, result.pre, strict=True):
        low, high = inverse(case, y - error), inverse(case, y + error)
        z = np.maximum(high - pre, pre - low) + K * a * (np.abs(pre) + np.abs(beta))
        xhat.append(z / np.abs(gamma))
    return replace(bounds, xhat=xhat)


def inverse(case: Case, y: np.ndarray) -> np.ndarray:
    """What went into the activation; for elu not below what its dtype tells from -infinity."""
    if case.policy.activation == "identity":
        return y
    if case.policy.activation == "leaky_relu":
        return np.where(y <= 0, y / np.longdouble(case.policy.negative_slope), y)
    least = UNIT[case.dtype] / np.longdouble(2)  # half the distance from -1 to the next value
    return np.where(y <= 0, np.log(np.maximum(1 + np.minimum(y, 0), least)), y)


def ambiguous(case: Case, result: Forward, bounds: Bounds, d: int) -> np.ndarray:
    """How far dy' may be off for what is not known exactly of the value before the activation."""
    policy, dy = case.policy, np.abs(case.gradients[d])
    from_y = policy.in_place or case.shards[d].residual is not None
    if policy.activation == "identity":
        return np.zeros_like(result.pre[d])
    if policy.activation == "elu":
        error = bounds.y[d] if from_y else bounds.pre[d]
        return np.where(result.pre[d] <= error, dy * error, 0)
    either = np.abs(result.pre[d]) <= bounds.pre[d]
    if from_y:
        either |= np.abs(result.y[d]) <= bounds.y[d]
    return np.where(either, dy * abs(1 - negative_slope(policy)), 0)


def backward_bounds(
    case: Case, result: Forward, bounds: Bounds, gradients: Backward, *, frozen: bool = False
) -> dict[str, list[np.ndarray]]:
    """err of dx, dresidual, dweight, dbias per shard. frozen: the statistics are constants."""
    a, policy = UNIT[case.arithmetic], case.policy
    if policy.in_place:
        bounds = recovered(case, result, bounds)
    through, sides = gradients.dresidual, range(len(case.shards))
    either = [ambiguous(case, result, bounds, d) for d in sides]
    local_beta, local_gamma = [], []
    for d in sides:
        size, xhat = np.abs(through[d]), np.abs(result.xhat[d])
        local_beta.append((K * a * size + either[d]).sum(axis=(0, 2)))
        each = size * bounds.xhat[d] + K * a * size * xhat + either[d] * (xhat + bounds.xhat[d])
        local_gamma.append(each.sum(axis=(0, 2)))
    dx = [dx_bound(case, result, bounds, through, either, d) for d in sides]
    if not frozen:
        pulled = pull_bound(case, result, bounds, through, (sum(local_beta), sum(local_gamma)))
        dx = [one + other for one, other in zip(dx, pulled, strict=True)]
    dx = [written(e, v, case.dtype) for e, v in zip(dx, gradients.dx, strict=True)]
    reduced = [local_gamma, local_beta]
    if not frozen:
        reduced = [reduce_gradients(policy, one) for one in reduced]
    return {
        "dx": dx,
        "dresidual": [
            written(e + K * a * np.abs(t), t, case.dtype)
            for e, t in zip(either, through, strict=True)
        ],
        "dweight": parameter_bounds(case, case.weight, reduced[0], gradients.dweight),
        "dbias": parameter_bounds(case, case.bias, reduced[1], gradients.dbias),
    }


def parameter_bounds(case: Case, parameter, errors, values) -> list[np.ndarray]:
    dtype = case.arithmetic if parameter is None else parameter.dtype
    return [written(e, v, dtype) for e, v in zip(errors, values, strict=True)]


def dx_bound(case, result, bounds, through, either, d: int) -> np.ndarray:
    """The term gamma*invstd*dy'."""
    a, (gamma, _) = UNIT[case.arithmetic], parameters(case)
    invstd, error = row(result.invstd), row(bounds.invstd)
    return np.abs(gamma) * (
        (invstd + error) * either[d] + np.abs(through[d]) * (error + K * a * invstd)
    )


def pull_bound(case, result, bounds, through, sum_errors) -> list[np.ndarray]:
    """The term gamma*invstd*c_d*(Sb + xhat*Sg) at the positions that count."""
    a, (gamma, _) = UNIT[case.arithmetic], parameters(case)
    relative = row(bounds.invstd / result.invstd) + K * a
    beta_error, gamma_error = (row(e) for e in sum_errors)
    sum_beta = row(np.abs(sum(t.sum(axis=(0, 2)) for t in through)))
    pairs = zip(through, result.xhat, strict=True)
    sum_gamma = row(np.abs(sum((t * h).sum(axis=(0, 2)) for t, h in pairs)))
    # Within its error of eps the variance may be clamped or not: the whole term is in doubt.
    doubt = row(np.abs(result.var - case.policy.eps) <= bounds.var)
    doubt = doubt if case.policy.eps_mode == "max" else np.zeros_like(doubt)
    gate = np.maximum(row(result.gate), doubt)
    pulled = []
    for d, shard in enumerate(case.reference_shards):
        xhat = np.abs(result.xhat[d])
        error = sum_beta * relative + beta_error + doubt * xhat * sum_gamma
        error = error + gate * (
            xhat * sum_gamma * 2 * relative
            + (xhat + bounds.xhat[d]) * gamma_error
            + bounds.xhat[d] * sum_gamma
        )
        scale = np.abs(gamma) * row(result.invstd) * result.coefficients[d]
        # invstd enters three times: its error may be as large as itself where var is near 0.
        pulled.append(shard.counted() * scale * error * (1 + relative) ** 2)
    return pulled
