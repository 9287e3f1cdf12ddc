"""jax.grad through and inside shard_map, of weights that are replicated or each device's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import Mesh
from jax_driver import RANKS, mesh
from plain_jax import BIAS, DY, GRADIENTS, WEIGHT, X, Y, assert_close

from syncnorm import UnsupportedError
from syncnorm.jax import RunningStatistics, batch_norm

SIZE = 4
layer = partial(batch_norm, axis=1, axis_name="ranks")


def weighted(x: Any, weight: Any, bias: Any, dy: Any, **options: Any) -> jax.Array:
    """A loss whose gradient by y is dy."""
    return (layer(x, weight, bias, **options)[0] * dy).sum()


def gradients_through(check_vma: bool, **options: Any) -> Any:
    """Of a loss over the whole batch, shard_map being a part of it."""

    def on_one(x: Any, weight: Any, bias: Any) -> jax.Array:
        return layer(x, weight, bias, **options)[0]

    specs = {"in_specs": (RANKS, P(), P()), "out_specs": RANKS}
    mapped = jax.shard_map(on_one, mesh=mesh(), check_vma=check_vma, **specs)
    return gradients_of(mapped)


def gradients_of(norm: Any) -> Any:
    """Of the loss over norm's results."""
    loss = lambda *given: (norm(*given) * DY).sum()  # noqa: E731
    return jax.jit(jax.grad(loss, (0, 1, 2)))(X, WEIGHT, BIAS)


def gradients_inside(check_vma: bool, parameters: P, **options: Any) -> Any:
    """Of each device's own loss; parameters: the out_specs of those of weight and bias."""

    def on_one(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
        dx, *others = jax.grad(partial(weighted, **options), (0, 1, 2))(x, weight, bias, dy)
        if parameters == RANKS:
            others = [gradient[None] for gradient in others]
        return dx, *others

    specs = {"in_specs": (RANKS, P(), P(), RANKS), "out_specs": (RANKS, parameters, parameters)}
    mapped = jax.shard_map(on_one, mesh=mesh(), check_vma=check_vma, **specs)
    return jax.jit(mapped)(X, WEIGHT, BIAS, DY)


def assert_gradients(actual: Any, factor: float = 1) -> None:
    """Those of one big batch, those of the parameters times a factor."""
    for found, expected, times in zip(actual, GRADIENTS, (1, factor, factor), strict=True):
        assert_close(found, times * expected)


def test_replicated_weights_count_once(x64: bool) -> None:
    assert_gradients(gradients_through(check_vma=True))
    assert_gradients(gradients_through(check_vma=False))
    assert_gradients(gradients_inside(True, P()))


def test_what_the_core_sums_is_not_summed_again() -> None:
    """Where shard_map keeps account of what is alike on all devices."""
    for reduction, factor in (("sum", 1), ("mean", 1 / SIZE)):
        assert_gradients(gradients_through(True, grad_reduction=reduction), factor)
        assert_gradients(gradients_inside(True, P(), grad_reduction=reduction), factor)


def test_without_that_account_jax_sums_replicated_weights_once_more() -> None:
    """As docs/jax.md says of check_vma=False and of jax.grad around shard_map."""
    assert_gradients(gradients_through(False, grad_reduction="sum"), SIZE)
    assert_gradients(gradients_through(False, grad_reduction="mean"), 1)


def test_without_that_account_gradients_inside_are_what_is_reported() -> None:
    local = gradients_inside(False, RANKS)
    assert_gradients([local[0], local[1].sum(0), local[2].sum(0)])
    for reduction, factor in (("sum", 1), ("mean", 1 / SIZE)):
        dx, *parameters = gradients_inside(False, RANKS, grad_reduction=reduction)
        for found in zip(*parameters, strict=True):  # on each device
            assert_gradients([dx, *found], factor)


def two_axes() -> Mesh:
    return Mesh(mesh().devices.reshape(2, 2), ("groups", "ranks"))


def test_along_one_of_two_axes_the_groups_are_apart(x64: bool) -> None:
    """Two groups of two devices; weights are replicated over both."""
    both = P(("groups", "ranks"))
    mapped = jax.shard_map(
        lambda *given: layer(*given)[0],
        mesh=two_axes(),
        in_specs=(both, P(), P()),
        out_specs=both,
    )

    def alone(x: Any, weight: Any, bias: Any) -> jax.Array:
        halves = [batch_norm(half, weight, bias, axis=1)[0] for half in jnp.split(x, 2)]
        return jnp.concatenate(halves)

    for made, expected in zip(gradients_of(mapped), gradients_of(alone), strict=True):
        assert_close(made, expected)


def test_several_axes_are_one_group(x64: bool) -> None:
    names = ("groups", "ranks")
    mapped = jax.shard_map(
        lambda *given: batch_norm(*given, axis=1, axis_name=names)[0],
        mesh=two_axes(),
        in_specs=(P(names), P(), P()),
        out_specs=P(names),
    )
    assert_close(jax.jit(mapped)(X, WEIGHT, BIAS), Y)
    assert_gradients(gradients_of(mapped))


def test_arrays_with_explicit_shardings() -> None:
    with jax.set_mesh(jax.make_mesh((SIZE,), ("ranks",))):
        x = jax.device_put(X, RANKS)
        mapped = jax.shard_map(lambda x: layer(x, WEIGHT, BIAS)[0], out_specs=RANKS)
        assert_close(jax.jit(mapped)(x), Y)
        gradient = jax.jit(jax.grad(lambda x: (mapped(x) * DY).sum()))(x)
        assert gradient.sharding.spec[0] == "ranks"
        assert_close(gradient, GRADIENTS[0])


def test_no_gradient_goes_through_running_statistics() -> None:
    def new_mean(x: Any, mean: Any) -> jax.Array:
        running = RunningStatistics(mean, jnp.ones(3))
        y, new = batch_norm(x, running=running, axis=1)
        return new.mean.sum() + new.var.sum() + 0 * y.sum()

    by_x, by_mean = jax.jit(jax.grad(new_mean, (0, 1)))(X, np.zeros(3, np.float32))
    assert not by_x.any()
    assert not by_mean.any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("by", ["x", "weight", "dy"])
def test_second_derivatives_are_refused(training: bool, by: str) -> None:
    running = RunningStatistics.initial(3)

    def first(**given: Any) -> jax.Array:
        given = {"x": X, "weight": WEIGHT, "dy": DY} | given

        def loss(x: Any, weight: Any) -> jax.Array:
            y, _ = batch_norm(x, weight, running=running, axis=1, training=training)
            return (y * given["dy"]).sum()

        dx, dweight = jax.grad(loss, (0, 1))(given["x"], given["weight"])
        return dx.sum() + dweight.sum()

    given = {"x": X, "weight": WEIGHT, "dy": DY}[by]
    with pytest.raises(UnsupportedError, match="a second derivative of syncnorm"):
        jax.grad(lambda value: first(**{by: value}))(given)


def test_forward_mode_is_refused() -> None:
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: batch_norm(x, axis=1)[0], (X,), (X,))
