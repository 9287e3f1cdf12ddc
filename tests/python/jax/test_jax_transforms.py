"""jit, remat, scan, vmap and pmap, and arrays that are sharded without shard_map."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax_driver import RANKS, mesh
from plain_jax import BIAS, DY, GRADIENTS, WEIGHT, X, Y, assert_close
from plain_jax import batch_norm as expected_batch_norm

from syncnorm import InvalidArgumentError, UnsupportedError
from syncnorm.jax import RunningStatistics, batch_norm

layer = partial(batch_norm, axis=1)


def loss(x: Any, weight: Any, bias: Any) -> jax.Array:
    return (layer(x, weight, bias)[0] * DY).sum()


def test_compiled_and_not_compiled_are_the_same(x64: bool) -> None:
    running = RunningStatistics.initial(3)
    one = layer(X, WEIGHT, BIAS, running)
    other = jax.jit(layer)(X, WEIGHT, BIAS, running)
    assert_close(one[0], Y)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.tobytes() == b.tobytes()


def test_old_statistics_stay_as_they_are(x64: bool) -> None:
    """XLA may write over memory that nobody reads any more, and over no other."""
    running = RunningStatistics.initial(3)
    _, new = jax.jit(layer)(X, running=running)
    assert_close(running.mean, np.zeros(3))
    assert_close(new.mean, 0.1 * X.mean((0, 2)))
    assert (int(running.num_batches_tracked), int(new.num_batches_tracked)) == (0, 1)


def test_what_nobody_uses_is_left_out() -> None:
    text = jax.jit(lambda x, running: layer(x, running=running)[0]).lower(
        X, RunningStatistics.initial(3)
    )
    compiled = text.compile().as_text()
    assert "syncnorm_normalize" in compiled
    assert "syncnorm_update_running" not in compiled


def test_remat_and_scan(x64: bool) -> None:
    given = X, WEIGHT, BIAS
    kept, made_again = (
        jax.jit(jax.grad(f, (0, 1, 2)))(*given) for f in (loss, jax.checkpoint(loss))
    )
    for one, other in zip(kept, made_again, strict=True):
        assert one.tobytes() == other.tobytes()

    def deep(x: Any, norm: Any) -> jax.Array:
        step = lambda h, _: (norm(h, WEIGHT, BIAS) + x, None)  # noqa: E731
        return (jax.lax.scan(step, x, None, length=3)[0] * DY).sum()

    assert_close(
        jax.jit(jax.grad(partial(deep, norm=lambda *given: layer(*given)[0])))(X),
        jax.grad(partial(deep, norm=expected_batch_norm))(X),
    )


def test_vmap_over_independent_layers(x64: bool) -> None:
    xs, weights = np.stack([X, 2 * X + 1]), np.stack([WEIGHT, 2 * WEIGHT])
    norm = lambda x, weight: layer(x, weight, BIAS)[0]  # noqa: E731
    made = jax.jit(jax.vmap(norm))(xs, weights)
    assert_close(made, [expected_batch_norm(x, w, BIAS) for x, w in zip(xs, weights, strict=True)])
    jacobian = jax.jit(jax.jacrev(lambda weight: norm(X, weight).sum((0, 2))))(WEIGHT)
    assert_close(jacobian, np.zeros((3, 3)))


def over_samples(x: Any, weight: Any, bias: Any) -> jax.Array:
    """The batch is an axis of vmap: a sample's channels are its axis 0."""
    norm = partial(batch_norm, axis=0, axis_name="batch")
    return jax.vmap(lambda sample: norm(sample, weight, bias)[0], axis_name="batch")(x)


def test_vmap_s_axis_as_the_group(x64: bool) -> None:
    assert_close(jax.jit(over_samples)(X, WEIGHT, BIAS), Y)
    gradients = jax.jit(jax.grad(lambda *given: (over_samples(*given) * DY).sum(), (0, 1, 2)))
    for made, expected in zip(gradients(X, WEIGHT, BIAS), GRADIENTS, strict=True):
        assert_close(made, expected)


def test_two_axes_of_vmap_are_one_group(x64: bool) -> None:
    """The 8 samples as 2x4. JAX's all_gather along two axes of vmap raises AssertionError."""
    norm = partial(batch_norm, axis=0, axis_name=("a", "b"))

    def over_both(x: Any, weight: Any, bias: Any) -> jax.Array:
        inner = jax.vmap(lambda sample: norm(sample, weight, bias)[0], axis_name="b")
        return jax.vmap(inner, axis_name="a")(x.reshape(2, 4, 3, 5)).reshape(X.shape)

    for transform in (lambda f: f, jax.jit):
        assert_close(transform(over_both)(X, WEIGHT, BIAS), Y)
        of_loss = jax.grad(lambda *given: (over_both(*given) * DY).sum(), (0, 1, 2))
        for made, expected in zip(transform(of_loss)(X, WEIGHT, BIAS), GRADIENTS, strict=True):
            assert_close(made, expected)


@pytest.mark.parametrize("names", [("ranks", "samples"), ("samples", "ranks")])
def test_an_axis_of_vmap_and_a_mesh_axis_are_one_group(names: tuple[str, str], x64: bool) -> None:
    norm = partial(batch_norm, axis=0, axis_name=names)

    def on_one(x: Any, weight: Any, bias: Any) -> jax.Array:
        return jax.vmap(lambda one: norm(one, weight, bias)[0], axis_name="samples")(x)

    specs = {"in_specs": (RANKS, P(), P()), "out_specs": RANKS}
    with pytest.raises(UnsupportedError, match=r"an axis of vmap in shard_map with check_vma"):
        jax.shard_map(on_one, mesh=mesh(), **specs)(X, WEIGHT, BIAS)
    mapped = jax.jit(jax.shard_map(on_one, mesh=mesh(), check_vma=False, **specs))
    assert_close(mapped(X, WEIGHT, BIAS), Y)
    of_loss = jax.jit(jax.grad(lambda *given: (mapped(*given) * DY).sum(), (0, 1, 2)))
    for made, expected in zip(of_loss(X, WEIGHT, BIAS), GRADIENTS, strict=True):
        assert_close(made, expected)


# Which devices are together; samples 2i and 2i + 1 are on device i.
GROUPS = [[0, 2], [3, 1]]


def in_groups(x: Any, weight: Any, bias: Any) -> Any:
    """Each group's samples alone, with the means of its running statistics."""
    y, means = [None] * 4, [None] * 4
    for group in GROUPS:
        together = jnp.concatenate([x[2 * device : 2 * device + 2] for device in group])
        made = expected_batch_norm(together, weight, bias)
        for place, device in enumerate(group):
            y[device] = made[2 * place : 2 * place + 2]
            means[device] = 0.1 * together.mean((0, 2))
    return jnp.concatenate(y), jnp.stack(means)


@pytest.mark.parametrize("way", ["shard_map", "without vma", "pmap", "vmap"])
def test_axis_index_groups(way: str, x64: bool) -> None:
    def on_one(x: Any, weight: Any, bias: Any) -> Any:
        running = RunningStatistics.initial(3)
        options = {"axis_name": "ranks", "axis_index_groups": GROUPS}
        y, new = layer(x.reshape(2, 3, 5), weight, bias, running, **options)
        return y, new.mean[None]

    def mapped(x: Any, weight: Any, bias: Any) -> Any:
        if way in ("pmap", "vmap"):
            one_by_one = {"in_axes": (0, None, None), "axis_name": "ranks"}
            made = getattr(jax, way)(on_one, **one_by_one)(x.reshape(4, 2, 3, 5), weight, bias)
            return made[0].reshape(x.shape), made[1].reshape(4, 3)
        specs = {"in_specs": (RANKS, P(), P()), "out_specs": RANKS}
        check = way == "shard_map"
        return jax.shard_map(on_one, mesh=mesh(), check_vma=check, **specs)(x, weight, bias)

    def loss_of(norm: Any) -> Any:
        return lambda *given: (norm(*given)[0] * DY).sum()

    given = X, WEIGHT, BIAS
    for made, expected in zip(jax.jit(mapped)(*given), in_groups(*given), strict=True):
        assert_close(made, expected)
    gradients = [jax.jit(jax.grad(loss_of(f), (0, 1, 2)))(*given) for f in (mapped, in_groups)]
    for made, expected in zip(*gradients, strict=True):
        assert_close(made, expected)


@pytest.mark.parametrize(
    "groups", [[[0, 1], [2]], [[0, 1], [2, 2]], [[0, 1], [2, 4]], [[0, 1, 2], [3]], [[0, 1]]]
)
def test_axis_index_groups_that_do_not_fit(groups: list[list[int]]) -> None:
    norm = partial(batch_norm, axis=0, axis_name="ranks", axis_index_groups=groups)
    with pytest.raises(InvalidArgumentError, match="axis_index_groups: got"):
        jax.vmap(norm, axis_name="ranks")(X[:4])


def test_axis_index_groups_leave_gradients_local() -> None:
    norm = partial(batch_norm, axis=0, axis_name="ranks", grad_reduction="sum")
    with pytest.raises(InvalidArgumentError, match="grad_reduction: got 'sum', expected 'local'"):
        jax.vmap(partial(norm, axis_index_groups=GROUPS), axis_name="ranks")(X[:4])
    norm(X, axis_name=None, axis_index_groups=GROUPS)  # unused, as in Flax


def test_running_statistics_are_alike_on_all_devices(x64: bool) -> None:
    """out_specs say so, and shard_map would refuse what it does not know."""
    running = RunningStatistics.initial(3)

    def on_one(x: Any, running: Any, **options: Any) -> Any:
        return layer(x, running=running, axis_name="ranks", **options)

    def mapped(**options: Any) -> Any:
        specs = {"in_specs": (RANKS, P()), "out_specs": (RANKS, P())}
        mapped = jax.shard_map(partial(on_one, **options), mesh=mesh(), **specs)
        return jax.jit(mapped)(X, running)

    _, new = mapped()
    assert_close(new.var, 0.9 + 0.1 * X.var((0, 2), ddof=1))
    _, new = mapped(variance_factor="unbiased_rank")  # no mask: ranks have the same count
    assert_close(new.var, 0.9 + 0.1 * X.var((0, 2)) * 10 / 9)
    mask = jnp.ones((2, 5), jnp.uint8)
    assert_close(mapped(mask=mask)[1].mean, 0.1 * X.mean((0, 2)))
    with pytest.raises(ValueError, match="out_specs"):
        mapped(mask=mask, variance_factor="unbiased_rank")


@pytest.mark.parametrize("axis", range(4))
def test_channels_on_any_axis(axis: int) -> None:
    x = np.random.default_rng(8).standard_normal((4, 3, 5, 2), np.float32)
    others = tuple(other for other in range(4) if other != axis)
    mean, std = x.mean(others, keepdims=True), x.std(others, keepdims=True)
    for same_axis in (axis, axis - 4):
        assert_close(jax.jit(partial(batch_norm, axis=same_axis, eps=0))(x)[0], (x - mean) / std)


@pytest.mark.parametrize("with_channels", [False, True])
def test_a_mask_is_broadcast(with_channels: bool) -> None:
    mask = np.arange(8) % 2 == 0
    shaped = mask.reshape(8, 1, 1) if with_channels else mask.reshape(8, 1)
    y, _ = layer(X, WEIGHT, BIAS, mask=shaped)
    assert_close(y[::2], expected_batch_norm(X[::2], WEIGHT, BIAS))


def test_the_average_over_all_batches(x64: bool) -> None:
    running = RunningStatistics.initial(3)
    for factor in (1, 2, 6):
        _, running = layer(factor * X, running=running, momentum=None)
    assert_close(running.mean, 3 * X.mean((0, 2)))
    assert running.num_batches_tracked.dtype == np.int32
    assert int(running.num_batches_tracked) == 3
