"""paddle's layer with its channels in dimension 1 or last, and inputs that it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from syncnorm.torch.paddle import SyncBatchNorm

FIRST, LAST = ["NC", "NCL", "NCHW", "NCDHW"], ["NLC", "NHWC", "NDHWC"]
SHAPES = [(6, 5), (4, 5, 7), (3, 5, 4, 6), (2, 5, 3, 4, 2)]  # channels first


def step(data_format: str, x: Tensor, dy: Tensor, training: bool) -> list[Tensor]:
    layer = SyncBatchNorm(5, 0.5, data_format=data_format, dtype=torch.float64).train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1, 6))
        layer.bias.copy_(torch.arange(5))
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(dy)
    buffers = [layer._mean, layer._variance]
    return [y, x.grad, layer.weight.grad, layer.bias.grad, *buffers]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_all_spellings_are_two_formats(shape: tuple[int, ...], training: bool) -> None:
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    expected = step("NCHW", x, dy, training)
    for data_format in FIRST:
        torch.testing.assert_close(step(data_format, x, dy, training), expected, rtol=0, atol=0)
    moved_x, moved_dy = (t.movedim(1, -1).contiguous() for t in (x, dy))
    for data_format in LAST:
        y, dx, *others = step(data_format, moved_x, moved_dy, training)
        for got in (y, dx):
            assert got.shape == moved_x.shape
            assert got.is_contiguous()
        results = [y.movedim(-1, 1), dx.movedim(-1, 1), *others]
        torch.testing.assert_close(results, expected, rtol=1e-13, atol=1e-13)


class Copies(TorchDispatchMode):
    """Counts the operations that copy a tensor."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._opname in ("clone", "copy_", "_to_copy")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("as_it_lies", "copies"), [(True, 0), (False, 2)])
def test_channels_that_lie_last_are_not_copied(as_it_lies: bool, copies: int) -> None:
    """Nor are gradients; where rows and columns have changed places, both are."""
    layer = SyncBatchNorm(5, data_format="NHWC")
    x, dy = torch.randn(2, 3, 4, 6, 5)
    if not as_it_lies:
        x, dy = x.transpose(1, 2), dy.transpose(1, 2)
    x.requires_grad_()
    with Copies() as counted:
        y = layer(x)
        torch.autograd.grad(y, [x, layer.weight], dy)
    assert counted.count == copies


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_output_is_laid_out_as_the_input(layout: torch.memory_format) -> None:
    x = torch.randn(2, 5, 5, 5).contiguous(memory_format=layout)
    assert SyncBatchNorm(5)(x).stride() == x.stride()


@pytest.mark.parametrize("wrong", ["CHW", "nchw", "NWC", "", None])
def test_another_data_format_is_refused_in_paddle_s_words(wrong: object) -> None:
    message = (
        "expected 'NCDHW', 'NDHWC', 'NCL', 'NLC', 'NC', 'NCHW', 'NHWC' for data_format, got"
        f" {wrong!r}"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        SyncBatchNorm(5, data_format=wrong)


@pytest.mark.parametrize("shape", [(5,), (5, 5, 5, 5, 5, 5)])
@pytest.mark.parametrize("data_format", ["NC", "NLC"])
def test_another_number_of_dimensions_is_refused(shape: tuple, data_format: str) -> None:
    with pytest.raises(ValueError, match=rf"expected 2D to 5D input \(got {len(shape)}D input\)"):
        SyncBatchNorm(5, data_format=data_format)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("data_format", "shape", "place"),
    [
        ("NCHW", (2, 3, 5, 5), r"dimension 1 \(got 3"),
        ("NHWC", (2, 5, 5, 3), r"dimension 3 \(got 3"),
        ("NHWC", (2, 5, 3), r"dimension 2 \(got 3"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_another_number_of_channels_is_refused(
    data_format: str, shape: tuple, place: str, training: bool
) -> None:
    layer = SyncBatchNorm(5, data_format=data_format).train(training)
    with pytest.raises(ValueError, match=f"expected 5 channels in {place}"):
        layer(torch.zeros(shape))


def test_what_is_no_group_is_refused() -> None:
    with pytest.raises(TypeError, match="process_group: got str, expected"):
        SyncBatchNorm(5, process_group="all")(torch.zeros(2, 5))


def test_the_representation_is_paddle_s() -> None:
    assert repr(SyncBatchNorm(5)) == "SyncBatchNorm(num_features=5, momentum=0.9, epsilon=1e-05)"
    assert repr(SyncBatchNorm(5, 0.8, 0.1, data_format="NLC", name="stem")) == (
        "SyncBatchNorm(num_features=5, momentum=0.8, epsilon=0.1, data_format=NLC, name=stem)"
    )
