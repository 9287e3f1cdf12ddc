"""batchnormtrain and batchnormeval: values, all five gradients, and what else they take."""

from __future__ import annotations

import encoding_formulas as formulas
import pytest
import torch
from closeness import assert_rounded
from torch import Tensor, nn

from syncnorm.torch.encoding import batchnormeval, batchnormtrain

FUNCTIONS = pytest.mark.parametrize("function", [batchnormtrain, batchnormeval])
SHAPES = pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (2, 4, 3, 2), (0, 4, 3)])


def arguments(shape: tuple, dtype: torch.dtype, vectors: torch.dtype) -> list[Tensor]:
    """input, gamma, beta, mean and std, which all require gradients."""
    drawn = [torch.randn(shape), torch.randn(4) + 1, torch.randn(4), torch.randn(4)]
    tensors = [drawn[0].to(dtype), *(v.to(vectors) for v in (*drawn[1:], torch.rand(4) + 0.5))]
    return [t.requires_grad_() for t in tensors]


@FUNCTIONS
@SHAPES
@pytest.mark.parametrize(
    ("dtype", "vectors"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_values_and_gradients(function, shape: tuple, dtype, vectors) -> None:
    given = arguments(shape, dtype, vectors)
    dy = torch.randn(shape).to(dtype)
    y = function(*given)
    y.backward(dy)
    assert y.dtype == dtype
    assert [t.grad.dtype for t in given] == [t.dtype for t in given]

    x, gamma, beta, mean, std = (t.detach().double() for t in given)
    numbers = [t.numpy() for t in (x, gamma, beta, mean, std)]
    exact = formulas.batchnorm_backward(dy.double().numpy(), numbers[0], numbers[1], *numbers[3:])

    def row(vector: Tensor) -> Tensor:
        return vector.reshape(-1, *[1] * (len(shape) - 2))

    axes = [0, *range(2, len(shape))]
    scale, size = (gamma / std).abs(), dy.double().abs()
    largest = (x.abs() + row(mean.abs())) * row(scale)
    assert_rounded(y, torch.tensor(formulas.batchnorm(*numbers)), largest + row(beta.abs()))
    sums = size.sum(axes)
    projected = (size * (x.abs() + row(mean.abs()))).sum(axes)
    for tensor, name, terms in zip(
        given,
        ("dx", "dgamma", "dbeta", "dmean", "dstd"),
        (size * row(scale), projected / std, sums, scale * sums, scale * projected / std),
        strict=True,
    ):
        assert_rounded(tensor.grad, torch.tensor(getattr(exact, name)), terms)


@FUNCTIONS
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 3)])
def test_derivatives_by_finite_differences(function, shape: tuple) -> None:
    given = arguments(shape, torch.float64, torch.float64)
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def test_std_contains_eps_already() -> None:
    one = torch.ones(1)
    y = batchnormtrain(torch.tensor([[3.0]]), one, 0 * one, 0 * one, 1e-3 * one)
    assert y.item() == pytest.approx(3000, rel=1e-6)


def test_a_tiny_std_does_not_overflow() -> None:
    """Its square is no float32."""
    x = torch.tensor([[3e-20], [-1e-20]], requires_grad=True)
    gamma = torch.ones(1, requires_grad=True)
    y = batchnormtrain(x, gamma, torch.zeros(1), torch.tensor([1e-20]), torch.tensor([1e-20]))
    torch.testing.assert_close(y.detach(), torch.tensor([[2.0], [-2.0]]))
    y.backward(torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(x.grad, torch.tensor([[1e20], [5e19]]))
    torch.testing.assert_close(gamma.grad, torch.tensor([1.0]))


@pytest.mark.parametrize("wanted", [[0], [1, 2], [3], [4], [0, 3, 4]])
def test_only_some_require_gradients(wanted: list[int]) -> None:
    given = arguments((3, 4, 2), torch.float64, torch.float64)
    every = torch.autograd.grad(batchnormtrain(*given).pow(2).sum(), given)
    some = [t.detach().requires_grad_(index in wanted) for index, t in enumerate(given)]
    batchnormtrain(*some).pow(2).sum().backward()
    for index, tensor in enumerate(some):
        if index in wanted:
            torch.testing.assert_close(tensor.grad, every[index])
        else:
            assert tensor.grad is None


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5)])
def test_with_the_statistics_of_the_batch_it_is_batch_norm(shape: tuple) -> None:
    eps, axes = 1e-5, [0, *range(2, len(shape))]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    gamma, beta = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    dy = torch.randn(shape, dtype=torch.float64)
    mean = x.mean(axes)
    std = (x.pow(2).mean(axes) - mean**2 + eps).sqrt()
    y = batchnormtrain(x, gamma, beta, mean, std)
    expected = nn.functional.batch_norm(x, None, None, gamma, beta, True, 0.1, eps)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    leaves = [x, gamma, beta]
    gradients = [torch.autograd.grad(each, leaves, dy) for each in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_vectors_of_another_length_are_refused(index: int) -> None:
    given = arguments((3, 4), torch.float32, torch.float32)
    given[index] = torch.ones(3)
    with pytest.raises((ValueError, RuntimeError), match="3"):
        batchnormtrain(*given)
