"""The reference itself: finite differences, PyTorch in float64, and published numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reference import Policy, Shard, backward, forward, infer, infer_backward, update_running
from reference.batch_norm import Real
from support.vectors import PADDLE, UNEQUAL, VECTORS, printed_like

POLICIES = [
    Policy(eps=0.3, weighting=weighting, eps_mode=mode, activation=activation, negative_slope=0.2)
    for weighting in ("count", "equal", "batch")
    for mode in ("add", "max")
    for activation in ("identity", "relu", "leaky_relu", "elu")
]


def make_shards(masked: bool, residual: bool) -> tuple[list[Shard], list[np.ndarray]]:
    """Three unequal shards, one empty; var of channel 0 is below eps, of channel 1 above."""
    generator = np.random.default_rng(7)
    shards, dys = [], []
    for n, s in ((2, 2), (0, 3), (1, 3)):
        x = generator.standard_normal((n, 2, s)) * [[[0.1], [3.0]]] + [[[0.5], [-2.0]]]
        mask = (np.arange(n * s).reshape(n, s) % 3 != 1).astype(np.uint8) if masked else None
        extra = generator.standard_normal(x.shape) if residual else None
        shards.append(Shard(x, mask, extra))
        dys.append(generator.standard_normal(x.shape))
    return shards, dys


WEIGHT, BIAS = np.array([1.5, -0.75]), np.array([0.25, 0.125])


def loss(policy: Policy, shards: list[Shard], dys, weight, bias) -> Real:
    result = forward(policy, shards, weight, bias)
    return sum((y * dy).sum() for y, dy in zip(result.y, dys, strict=True))


def numeric_gradient(function, values: np.ndarray) -> np.ndarray:
    """Central differences. The step balances rounding (eps/h) against the cubic term (h^2)."""
    step = np.cbrt(np.finfo(Real).eps)
    gradient = np.zeros(values.shape, Real)
    for index in np.ndindex(values.shape):
        moved = [values.astype(Real), values.astype(Real)]
        moved[0][index] += step
        moved[1][index] -= step
        gradient[index] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return gradient


def assert_gradient(actual: np.ndarray, numeric: np.ndarray) -> None:
    # A step of eps^(1/3) leaves eps^(2/3) times third derivatives, here below 1e3.
    bound = 1e3 * np.finfo(Real).eps ** (2 / 3)
    np.testing.assert_allclose(actual.astype(float), numeric.astype(float), rtol=bound, atol=bound)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    "policy", POLICIES, ids=lambda p: f"{p.weighting}-{p.eps_mode}-{p.activation}"
)
def test_backward_is_the_gradient_of_forward(policy: Policy, masked: bool, residual: bool) -> None:
    shards, dys = make_shards(masked, residual)
    statistics = forward(policy, shards, WEIGHT, BIAS)
    gradients = backward(policy, statistics, shards, dys, WEIGHT)
    for d, shard in enumerate(shards):

        def at(x, d=d, shard=shard):
            moved = [*shards[:d], Shard(x, shard.mask, shard.residual), *shards[d + 1 :]]
            return loss(policy, moved, dys, WEIGHT, BIAS)

        assert_gradient(gradients.dx[d], numeric_gradient(at, shard.x))
    by_weight = numeric_gradient(lambda w: loss(policy, shards, dys, w, BIAS), WEIGHT)
    by_bias = numeric_gradient(lambda b: loss(policy, shards, dys, WEIGHT, b), BIAS)
    assert_gradient(sum(gradients.dweight), by_weight)
    assert_gradient(sum(gradients.dbias), by_bias)


@pytest.mark.parametrize("policy", POLICIES[:4], ids=lambda p: p.activation)
def test_residual_gradient(policy: Policy) -> None:
    shards, dys = make_shards(False, True)
    gradients = backward(policy, forward(policy, shards, WEIGHT, BIAS), shards, dys, WEIGHT)

    def at(residual):
        moved = [Shard(shards[0].x, None, residual), *shards[1:]]
        return loss(policy, moved, dys, WEIGHT, BIAS)

    assert_gradient(gradients.dresidual[0], numeric_gradient(at, shards[0].residual))


@pytest.mark.parametrize("mode", ["add", "max"])
@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu", "elu"])
def test_infer_backward_is_the_gradient_of_infer(mode: str, activation: str) -> None:
    policy = Policy(eps=0.3, eps_mode=mode, activation=activation)
    shards, dys = make_shards(False, True)
    shard, dy, statistics = shards[0], dys[0], (np.array([0.4, -1.5]), np.array([0.01, 8.0]))
    result = infer(policy, shard, *statistics, WEIGHT, BIAS)
    gradients = infer_backward(policy, result, dy, WEIGHT)

    def at(x, weight=WEIGHT, bias=BIAS):
        moved = Shard(x, None, shard.residual)
        return (infer(policy, moved, *statistics, weight, bias).y[0] * dy).sum()

    assert_gradient(gradients.dx[0], numeric_gradient(at, shard.x))
    by_weight = numeric_gradient(lambda w: at(shard.x, weight=w), WEIGHT)
    by_bias = numeric_gradient(lambda b: at(shard.x, bias=b), BIAS)
    assert_gradient(gradients.dweight[0], by_weight)
    assert_gradient(gradients.dbias[0], by_bias)


def test_in_place_changes_small_weights_alone() -> None:
    shards, dys = make_shards(False, False)
    weight, applied = np.array([-1e-5, 1.5]), np.array([-(2.0**-12), 1.5])
    results = []
    for policy, gamma in ((Policy(in_place=True), weight), (Policy(), applied)):
        statistics = forward(policy, shards, gamma)
        gradients = backward(policy, statistics, shards, dys, gamma)
        results.append([*statistics.y, *gradients.dx, *gradients.dweight])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_eps_max_has_both_sides_of_the_clamp() -> None:
    """Guards the tests above: one channel must be clamped and the other not."""
    shards, _ = make_shards(False, False)
    assert forward(Policy(eps=0.3, eps_mode="max"), shards).gate.tolist() == [0, 1]


@pytest.mark.parametrize("reduction", ["local", "sum", "mean"])
def test_grad_reduction(reduction: str) -> None:
    shards, dys = make_shards(False, False)
    policy = Policy(grad_reduction=reduction)
    statistics = forward(policy, shards)
    gradients = backward(policy, statistics, shards, dys)
    sums = np.array([dy.sum(axis=(0, 2)) for dy in dys])
    expected = {"local": sums, "sum": [sums.sum(0)] * 3, "mean": [sums.mean(0)] * 3}[reduction]
    np.testing.assert_allclose(np.array(gradients.dbias).astype(float), expected, rtol=1e-13)


def test_against_torch_in_float64() -> None:
    """Count weighting is one big batch: torch's batch norm of the concatenated shards."""
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(3)
    parts = [generator.standard_normal((n, 5, 7)) * 2 + 100 for n in (3, 1, 4)]
    dys = [generator.standard_normal(part.shape) for part in parts]
    weight, bias = generator.standard_normal(5), generator.standard_normal(5)
    policy, shards = Policy(momentum=0.3), [Shard(part) for part in parts]
    statistics = forward(policy, shards, weight, bias)
    gradients = backward(policy, statistics, shards, dys, weight)

    leaves = [torch.tensor(v, requires_grad=True) for v in (np.concatenate(parts), weight, bias)]
    running = [torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)]
    y = torch.nn.functional.batch_norm(leaves[0], *running, *leaves[1:], True, 0.3, 1e-5)
    y.backward(torch.tensor(np.concatenate(dys)))
    mean, var, _ = update_running(policy, statistics, 0, np.zeros(5), np.ones(5))
    pairs = [
        (np.concatenate(statistics.y), y.detach()),
        (np.concatenate(gradients.dx), leaves[0].grad),
        (sum(gradients.dweight), leaves[1].grad),
        (sum(gradients.dbias), leaves[2].grad),
        (mean, running[0]),
        (var, running[1]),
    ]
    for actual, expected in pairs:  # torch's own error: eps * (mean/std = 50)^2 and cancellation
        np.testing.assert_allclose(actual.astype(float), expected.numpy(), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_the_variance_survives_a_large_mean(ratio: float) -> None:
    """mean and var of integers k around an integer mean are known exactly."""
    k = np.arange(-8.0, 9.0)
    std = float(np.sqrt(np.mean(k**2)))
    shards = [Shard((np.round(ratio * std) + part).reshape(1, 1, -1)) for part in (k[:3], k[3:])]
    statistics = forward(Policy(), shards)
    exact_mean, exact_var = Real(np.round(ratio * std)), Real(24)
    assert abs(statistics.mean[0] - exact_mean) <= 4 * np.finfo(Real).eps * exact_mean
    assert abs(statistics.var[0] - exact_var) <= 64 * np.finfo(Real).eps * exact_var


def test_a_masked_batch_is_the_batch_without_what_does_not_count() -> None:
    shards, _ = make_shards(True, False)
    kept = [s.x.transpose(1, 0, 2)[:, s.mask != 0][None] for s in shards]
    masked, plain = forward(Policy(), shards), forward(Policy(), [Shard(x) for x in kept])
    np.testing.assert_array_equal(masked.mean, plain.mean)
    np.testing.assert_array_equal(masked.var, plain.var)


def test_running_statistics_of_nothing_stay() -> None:
    statistics = forward(Policy(), [Shard(np.zeros((0, 2, 3)))] * 2)
    mean, var, batches = update_running(Policy(), statistics, 0, np.array([3, 4]), np.ones(2), 5)
    assert (mean.tolist(), var.tolist(), batches) == ([3, 4], [1, 1], 5)


def test_cumulative_average_is_the_mean_over_batches() -> None:
    policy = Policy(momentum=None, variance_factor="biased")
    batches = [np.random.default_rng(i).standard_normal((4, 1, 3)) for i in range(5)]
    mean, var, count = np.array([9.0]), np.array([9.0]), 0
    for x in batches:
        mean, var, count = update_running(policy, forward(policy, [Shard(x)]), 0, mean, var, count)
    assert count == 5
    np.testing.assert_allclose(float(mean[0]), np.mean([x.mean() for x in batches]), rtol=1e-14)
    np.testing.assert_allclose(float(var[0]), np.mean([x.var() for x in batches]), rtol=1e-14)


def test_paddle_example() -> None:
    policy = Policy(momentum=0.1, variance_factor="biased")
    statistics = forward(policy, [Shard(PADDLE.x.reshape(1, 2, 4))])
    running = update_running(policy, statistics, 0, np.zeros(2), np.ones(2))
    printed = np.array(PADDLE.y.split(), float)
    # y was printed from float32 arithmetic: its last digits are rounding, a few units of 2^-23.
    np.testing.assert_allclose(statistics.y[0].ravel().astype(float), printed, rtol=4 * 2**-23)
    assert printed_like(PADDLE.running_mean, running[0]) == PADDLE.running_mean
    assert printed_like(PADDLE.running_var, running[1]) == PADDLE.running_var


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.weighting)
def test_unequal_shards(vector) -> None:
    policy, shards = Policy(weighting=vector.weighting), [Shard(x) for x in UNEQUAL.x]
    statistics = forward(policy, shards)
    gradients = backward(policy, statistics, shards, UNEQUAL.dy)
    assert printed_like(vector.mean, statistics.mean) == vector.mean
    assert printed_like(vector.var, statistics.var) == vector.var
    joined = np.concatenate([y.ravel() for y in statistics.y])
    assert printed_like(vector.y, joined) == vector.y
    joined = np.concatenate([dx.ravel() for dx in gradients.dx])
    assert printed_like(vector.dx, joined) == vector.dx
    assert printed_like(vector.dweight, np.concatenate(gradients.dweight)) == vector.dweight
    assert np.concatenate(gradients.dbias).tolist() == [2.5, -3]
    for (factor, rank), expected in vector.running_var.items():
        policy = Policy(weighting=vector.weighting, variance_factor=factor)
        _, var, _ = update_running(policy, statistics, rank, np.zeros(1), np.ones(1))
        assert printed_like(expected, var) == expected


def test_every_pair_of_weightings_differs_on_the_vector() -> None:
    """Otherwise the vector would not tell the policies apart."""
    for one, other in itertools.combinations(VECTORS, 2):
        assert one.mean != other.mean
        assert one.dx != other.dx
