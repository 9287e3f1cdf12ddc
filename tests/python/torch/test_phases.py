"""The public phases: a layer of one's own over them, and every phase against the layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layouts import laid_out
from own_layer import Normalize
from torch import Tensor

from syncnorm import DesyncError
from syncnorm.torch import functional as phases
from syncnorm.torch import sync_batch_norm, sync_batch_norm_shards


class TwiceHere:
    """A group of two ranks with the same data."""

    size = 2

    @staticmethod
    def sum(wire: Tensor) -> Tensor:
        return 2 * wire


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # dynamo's own
@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
def test_a_layer_of_ones_own(backend: str | None) -> None:
    given = torch.randn(3, 5, 4), torch.randn(5), torch.randn(5)
    dy = torch.randn(3, 5, 4)

    def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = Normalize.apply(x, weight, bias, TwiceHere)
        return y

    torch._dynamo.reset()
    x, weight, bias = leaves(*given)
    call = torch.compile(normalize, fullgraph=True, backend=backend) if backend else normalize
    y = call(x, weight, bias)
    y.backward(dy)

    same, scale, offset = leaves(*given)
    expected, _ = sync_batch_norm_shards([same, same], weight=scale, bias=offset)
    torch.autograd.backward(expected, dy)
    assert torch.equal(y, expected)
    both, gamma, beta = leaves(*given)
    torch.autograd.backward(sync_batch_norm_shards([both, both], weight=gamma, bias=beta), [dy, dy])
    for got, of_both in zip((x, weight, bias), (both, gamma, beta), strict=True):
        torch.testing.assert_close(2 * got.grad, of_both.grad)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("dtype", "choices", "masked", "with_residual"),
    [
        (torch.float32, {}, False, False),
        (torch.float32, {"activation": "relu"}, False, True),
        (torch.float64, {"activation": "leaky_relu"}, True, False),
        (torch.bfloat16, {"centering": "on", "eps_mode": "max"}, True, True),
    ],
)
def test_the_phases_of_a_group_of_one_are_the_layer(
    dtype: torch.dtype, choices: dict[str, Any], masked: bool, with_residual: bool, layout: str
) -> None:
    settings = phases.Settings(eps=1e-3, momentum=0.3, **choices)
    x = laid_out(torch.randn(3, 5, 4, 2).to(dtype), layout)
    weight, bias, dy = torch.randn(5), torch.randn(5), torch.randn(3, 5, 4, 2).to(dtype)
    residual = torch.randn(3, 5, 4, 2).to(dtype) if with_residual else None
    mask = torch.rand(3, 1, 4, 2) > 0.3 if masked else None
    running = (torch.zeros(5), torch.ones(5))
    count = torch.tensor(0)
    affine = {"weight": weight, "bias": bias}

    wire, local_var = phases.moments(x, settings, mask=mask, tag=9)
    center_total = None
    if local_var is not None:
        center_total = phases.center(x, wire, None, local_var, 1, settings, tag=9)
    moved = {"center_total": center_total, "num_batches_tracked": count, "tag": 9}
    phases.update_running(x, wire, None, 1, settings, *running, **moved)
    added = {"center_total": center_total, "residual": residual, "tag": 9}
    y, saved = phases.normalize(x, wire, None, 1, settings, **affine, **added)
    read = y if with_residual and settings.activation != "identity" else None
    grad_wire = phases.grad_moments(x, dy, saved, settings, **affine, y=read, tag=9)
    gradients = phases.grad_input(
        *(x, dy, saved, grad_wire, None, 1, settings),
        **affine,
        mask=mask,
        y=read,
        wanted=(True, True, True, with_residual),
        tag=9,
    )

    leaf, gamma, beta = leaves(x, weight, bias)
    other = None if residual is None else leaves(residual)[0]
    statistics = (torch.zeros(5), torch.ones(5))
    expected = sync_batch_norm(
        *(leaf, *statistics, gamma, beta, True, 0.3, 1e-3),
        residual=other,
        mask=mask,
        num_batches_tracked=torch.tensor(0),
        **choices,
    )
    expected.backward(dy)
    assert torch.equal(y, expected)
    assert y.stride() == expected.stride()
    assert torch.equal(gradients.x, leaf.grad)
    assert torch.equal(gradients.weight, gamma.grad)
    assert torch.equal(gradients.bias, beta.grad)
    assert (
        gradients.residual is None if other is None else torch.equal(gradients.residual, other.grad)
    )
    assert all(torch.equal(a, b) for a, b in zip(running, statistics, strict=True))
    assert count.item() == 1


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_inference(activation: str) -> None:
    settings = phases.Settings(activation=activation)
    x, dy, residual = (torch.randn(3, 5, 4) for _ in range(3))
    running, weight = (torch.randn(5), torch.rand(5)), torch.randn(5)
    y, saved = phases.infer(x, *running, settings, weight=weight, residual=residual)
    read = y if activation == "relu" else None
    wanted = (True, True, True, True)
    gradients = phases.infer_backward(x, dy, saved, settings, weight=weight, y=read, wanted=wanted)
    leaf, gamma, added = leaves(x, weight, residual)
    expected = sync_batch_norm(leaf, *running, gamma, residual=added, activation=activation)
    expected.backward(dy)
    assert torch.equal(y, expected)
    assert torch.equal(gradients.x, leaf.grad)
    assert torch.equal(gradients.weight, gamma.grad)
    assert gradients.bias is None
    assert torch.equal(gradients.residual, added.grad)


def test_what_is_written_is_announced() -> None:
    x, running = torch.randn(3, 5), (torch.zeros(5), torch.ones(5))
    wire, _ = phases.moments(x, phases.Settings())
    phases.update_running(x, wire, None, 1, phases.Settings(), *running)
    assert [buffer._version for buffer in running] == [1, 1]


def test_phases_have_no_derivatives() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    wire, _ = phases.moments(x, phases.Settings())
    y, saved = phases.normalize(x, wire, None, 1, phases.Settings())
    assert not any(tensor.requires_grad for tensor in (wire, y, saved))


def test_ranks_with_different_tags() -> None:
    x, settings = torch.randn(3, 5), phases.Settings()
    (mine, _), (other, _) = (phases.moments(x, settings, tag=tag) for tag in (1, 2))
    with pytest.raises(DesyncError, match="differ in the layer"):
        phases.normalize(x, mine, mine + other, 2, settings, tag=1)
