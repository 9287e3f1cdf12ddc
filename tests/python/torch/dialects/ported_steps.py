"""Steps of training on ranks that are threads, beside a system's formulas in NumPy.

For the systems whose layers are like one another in all but names and formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from closeness import assert_rounded
from thread_ranks import run_ranks
from torch import Tensor, nn

from support.vectors import UNEQUAL, VECTORS, printed_like

CHANNELS = 3
STEPS = 3

# Samples of every rank.
SIZES = {
    "equal": (4, 4, 4, 4),
    "unequal": (1, 5, 2, 3),
    "one empty": (3, 0, 2, 4),
    "all empty": (0, 0, 0, 0),
}

Array = np.ndarray


@dataclass(frozen=True)
class Dialect:
    """names: of the vectors, in the layer and in the formulas. layer: made of a group and a dtype.
    formulas: made of the four vectors. frozen: the parameters get no gradient.
    """

    names: tuple[str, str, str, str]
    layer: Callable[[Any, torch.dtype], nn.Module]
    formulas: Callable[..., Any]
    frozen: bool = False


@dataclass
class Step:
    """What goes in, what comes out by the formulas, and the magnitude of what is added up for it.

    before, after: the four vectors. gradients: dx, dgamma and dbeta. Each array by rank.
    """

    before: list[Array]
    xs: list[Array]
    dys: list[Array]
    ys: list[Array]
    gradients: tuple[list[Array], list[Array], list[Array]]
    after: list[Array]
    terms: list[dict[str, Array]]


def exact_steps(
    dialect: Dialect, sizes: Sequence[int], dtype: str = "float64", tail: tuple[int, ...] = (3, 2)
) -> list[Step]:
    """STEPS steps of gradient descent, from numbers that dtype has."""
    generator = np.random.default_rng(5)

    def rounded(values: Array) -> Array:
        return values.astype(dtype).astype(np.float64)

    def drawn(*shape: int) -> Array:
        return rounded(1.5 * generator.standard_normal(shape) + 1)

    vectors = [drawn(CHANNELS) for _ in range(4)]
    formulas = dialect.formulas(*vectors[:3], np.abs(vectors[3]) + 0.5)
    steps = []
    for _ in range(STEPS):
        before = [getattr(formulas, name) for name in dialect.names]
        xs = [drawn(n, CHANNELS, *tail) for n in sizes]
        dys = [drawn(*x.shape) for x in xs]
        ys = formulas.forward(xs)
        gradients = formulas.backward(dys)
        after = [getattr(formulas, name) for name in dialect.names]
        steps.append(Step(before, xs, dys, ys, gradients, after, _terms(formulas, before, xs, dys)))
        for index, each in enumerate(gradients[1:]):
            setattr(formulas, dialect.names[index], rounded(before[index] - 0.1 * sum(each)))
    return steps


def row(vector: Array, x: Array) -> Array:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def total(each: Sequence[Array]) -> Array:
    """The sum of all values of a channel."""
    return sum(values.sum((0, *range(2, values.ndim))) for values in each)


def _terms(
    formulas: Any, before: list[Array], xs: list[Array], dys: list[Array]
) -> list[dict[str, Array]]:
    mean, invstd = np.abs(formulas.mean), formulas.invstd
    gamma, beta = (np.abs(vector) + 1 for vector in before[:2])  # and 1, where gamma is fixed
    norms = [(np.abs(x) + row(mean, x)) * row(invstd, x) for x in xs]
    sizes = [np.abs(dy) for dy in dys]
    products = [size * norm for size, norm in zip(sizes, norms, strict=True)]
    found = []
    for x, size, norm, product in zip(xs, sizes, norms, products, strict=True):
        pulled = row(total(sizes), x) + norm * row(total(products), x)
        found.append(
            {
                "y": norm * row(gamma, x) + row(beta, x),
                "dx": row(gamma * invstd, x) * (size + formulas.share(x) * pulled),
                "dgamma": total([product]),
                "dbeta": total([size]),
                "mean": np.abs(before[2]) + mean,
                "var": before[3] + mean**2 + 1 / invstd**2,
            }
        )
    return found


def check_training(
    dialect: Dialect,
    sizes: Sequence[int],
    dtype: str = "float64",
    tail: tuple[int, ...] = (3, 2),
) -> None:
    """Every rank's output, gradients and buffers after each step are those of the formulas."""
    steps = exact_steps(dialect, sizes, dtype, tail)

    def body(rank: int, communicator: Any) -> list[dict[str, Tensor | None]]:
        layer = dialect.layer(communicator, getattr(torch, dtype))
        started(layer, dialect, steps[0])
        return [run_step(layer, dialect, step, rank) for step in steps]

    for rank, results in enumerate(run_ranks(len(sizes), body)):
        for step, result in zip(steps, results, strict=True):
            compare(step, rank, result)


def started(layer: nn.Module, dialect: Dialect, step: Step) -> None:
    """Give the layer the buffers with which a first step starts."""
    for name, value in zip(dialect.names[2:], step.before[2:], strict=True):
        put(getattr(layer, name), value)


def put(tensor: Tensor, values: Array) -> None:
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(values).reshape(tensor.shape))


def run_step(layer: nn.Module, dialect: Dialect, step: Step, rank: int) -> dict[str, Tensor | None]:
    """What a rank has after a step; for a parameter that gets no gradient None."""
    gamma, beta, mean, var = (getattr(layer, name) for name in dialect.names)
    put(gamma, step.before[0])
    put(beta, step.before[1])
    layer.zero_grad()
    x = torch.from_numpy(step.xs[rank]).to(mean.dtype).requires_grad_()
    y = layer(x)
    y.backward(torch.from_numpy(step.dys[rank]).to(mean.dtype))
    assert y.dtype == x.grad.dtype == mean.dtype
    gradients = [None if p.grad is None else p.grad.flatten() for p in (gamma, beta)]
    for parameter in (gamma, beta):
        gets_one = parameter.requires_grad and not dialect.frozen
        assert (parameter.grad is not None) == gets_one
    return {
        "y": y,
        "dx": x.grad,
        "dgamma": gradients[0],
        "dbeta": gradients[1],
        "mean": mean.flatten().clone(),
        "var": var.flatten().clone(),
    }


def compare(step: Step, rank: int, result: dict[str, Tensor | None]) -> None:
    dxs, dgammas, dbetas = step.gradients
    exact = {
        "y": step.ys[rank],
        "dx": dxs[rank],
        "dgamma": dgammas[rank],
        "dbeta": dbetas[rank],
        "mean": step.after[2],
        "var": step.after[3],
    }
    for name, got in result.items():
        if got is not None:
            assert got.shape == exact[name].shape, name
            terms = torch.from_numpy(step.terms[rank][name])
            assert_rounded(got, torch.from_numpy(exact[name]), terms)


def check_unequal_vector(dialect: Dialect, weighting: str, running_var: str) -> None:
    """The vector of unequal shards, to its printed digits."""

    def body(rank: int, communicator: Any) -> list[Tensor]:
        layer = dialect.layer(communicator, torch.float64)
        gamma, beta, mean, var = (getattr(layer, name) for name in dialect.names)
        x = torch.tensor(UNEQUAL.x[rank], requires_grad=True)
        y = layer(x)
        y.backward(torch.tensor(UNEQUAL.dy[rank]))
        return [t.detach().flatten() for t in (y, x.grad, gamma.grad, beta.grad, mean, var)]

    ranks = run_ranks(2, body)
    y, dx, dgamma, dbeta = (torch.cat([rank[i] for rank in ranks]).tolist() for i in range(4))
    (vector,) = [vector for vector in VECTORS if vector.weighting == weighting]
    assert printed_like(vector.y, y) == vector.y
    assert printed_like(vector.dx, dx) == vector.dx
    assert printed_like(vector.dweight, dgamma) == vector.dweight
    assert dbeta == [2.5, -3]
    for *_, mean, var in ranks:
        assert printed_like(running_var, var.tolist()) == running_var
        assert abs(mean.item() - float(vector.mean) / 10) < 1e-15
