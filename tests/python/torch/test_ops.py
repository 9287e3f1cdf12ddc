"""The operators syncnorm::*: what torch's checker of operators finds, and what their fakes say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layouts import laid_out
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from syncnorm import InvalidArgumentError, Options
from syncnorm.comm import from_callback
from syncnorm.settings import Settings, core_options
from syncnorm.torch.ops import all_reduce
from syncnorm.torch.ops import library as ops
from syncnorm.torch.ops.layout import dense
from syncnorm.torch.ops.library import decoded, encoded

TAG = 7
OPERATORS = {
    operator._opname: operator
    for operator in (
        ops.moments,
        ops.center,
        ops.normalize,
        ops.update_running,
        ops.infer,
        ops.grad_moments,
        ops.grad_input,
        ops.infer_backward,
    )
}
PHASES = [name for name in OPERATORS if name != "center"]

# opcheck's own, from torch 2.15 on.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


def arguments(
    shape: tuple[int, ...] = (3, 5, 4),
    layout: str = "channels_first",
    dtype: torch.dtype = torch.float32,
    *,
    affine: bool = True,
    masked: bool = False,
    with_residual: bool = False,
    requires_grad: bool = True,
    **choices: Any,
) -> dict[str, tuple[Any, ...]]:
    """What every operator takes in one call of a group of one."""
    settings = encoded(Settings(**choices))
    x, added, dy = (laid_out(torch.randn(shape, dtype=dtype), layout) for _ in range(3))
    residual = added if with_residual else None
    mask = torch.rand(shape[0], *shape[2:]) > 0.3 if masked else None
    weight, bias = (torch.randn(shape[1]) if affine else None for _ in range(2))
    running = (torch.randn(shape[1]), torch.rand(shape[1]), torch.tensor(3))
    wire, *local_var = ops.moments(x, settings, mask, TAG)
    center = (x, settings, wire, None, *local_var, 1, TAG)
    totals = (wire, wire.clone(), ops.center(*center) if local_var else None)
    affine_residual = (weight, bias, residual)
    y, saved = ops.normalize(x, settings, *totals, *affine_residual, mask, None, 1, "", TAG)
    read = y if with_residual and decoded(settings).activation != "identity" else None
    grad_wire = ops.grad_moments(x, settings, dy, saved, weight, bias, read, TAG)
    wanted = [True, affine, False, read is not None]
    to_differentiate = x.clone().requires_grad_(requires_grad)
    if affine and requires_grad:
        affine_residual = (weight.clone().requires_grad_(), bias, residual)
    return {
        "moments": (x, settings, mask, TAG),
        "center": center,
        "normalize": (
            *(to_differentiate, settings, *totals, *affine_residual),
            *(mask, None, 1, "", TAG),
        ),
        "update_running": (x, settings, *totals, *running, 1, TAG),
        "infer": (to_differentiate, settings, *running[:2], *affine_residual),
        "grad_moments": (x, settings, dy, saved, weight, bias, read, TAG),
        "grad_input": (
            *(x, settings, wanted, weight, bias, dy, saved, grad_wire, None),
            *(mask, read, 1, TAG),
        ),
        "infer_backward": (x, settings, wanted, weight, bias, dy, saved, read),
    }


SAMPLES: dict[str, dict[str, Any]] = {
    "plain": {},
    "2-D": {"shape": (6, 5)},
    "channels last": {"shape": (2, 5, 4, 3), "layout": "channels_last"},
    "empty": {"shape": (0, 5, 4)},
    "masked": {"masked": True},
    "residual and activation": {"with_residual": True, "activation": "relu"},
    "not affine, no gradients": {"affine": False, "requires_grad": False},
    "float64, centred": {"dtype": torch.float64},
    "bfloat16, cumulative": {"dtype": torch.bfloat16, "momentum": None},
}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", PHASES)
def test_the_checker_of_torch_finds_nothing(name: str, sample: str) -> None:
    opcheck(OPERATORS[name], arguments(**SAMPLES[sample])[name])


@pytest.mark.parametrize("shape", [(3, 5, 4), (0, 4, 3)])
def test_the_checker_of_torch_finds_nothing_in_center(shape: tuple[int, ...]) -> None:
    opcheck(ops.center, arguments(shape, dtype=torch.float64)["center"])


def test_the_checker_of_torch_finds_nothing_in_the_sum_of_a_communicator() -> None:
    def double(src: memoryview, dst: memoryview) -> None:
        for index, value in enumerate(src):
            dst[index] = 2 * value

    communicator = from_callback(0, 2, double)
    wire = torch.randn(6, dtype=torch.float64)
    opcheck(all_reduce.all_reduce_over_communicator, (wire, all_reduce.group_name(communicator)))
    assert torch.equal(all_reduce.all_reduce(wire, all_reduce.group_name(communicator)), 2 * wire)


def test_a_communicator_keeps_its_name() -> None:
    first, second = (from_callback(0, 2, lambda *_: None) for _ in range(2))
    name = all_reduce.group_name(first)
    assert all_reduce.group_name(first) == name
    assert all_reduce.group_name(second) != name


def strides(results: Any) -> list[tuple[Any, ...]]:
    each = results if isinstance(results, list | tuple) else [results]
    return [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in each]


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 5, 3, 4), (0, 1, 2, 3)),
        ((2, 5, 3, 4), (0, 2, 3, 1)),
        ((2, 5, 3, 4), (0, 2, 1, 3)),
        ((2, 5, 3, 4), (3, 1, 0, 2)),
        ((2, 5, 1, 1), (0, 2, 3, 1)),
        ((1, 5, 1, 4), (0, 3, 1, 2)),
        ((2, 1, 3, 4), (0, 2, 3, 1)),
        ((2, 3, 4, 2, 3), (0, 2, 3, 4, 1)),
        ((4, 5), (1, 0)),
    ],
)
@pytest.mark.parametrize("name", ["normalize", "infer", "grad_input"])
def test_a_fake_has_the_strides_of_the_real(
    name: str, shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    """For inputs of any strides, as they are after what is done to them before the operator."""
    stored = torch.randn([shape[axis] for axis in axes])
    x = dense(stored.permute([axes.index(axis) for axis in range(len(shape))]))
    given = arguments(shape)[name]
    if name == "grad_input":
        dy = torch.empty_like(x).copy_(given[5])
        given = (x, *given[1:5], dy, *given[6:])
    else:
        given = (x, *given[1:])
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) if isinstance(t, Tensor) else t for t in given]
        expected = strides(OPERATORS[name](*fakes))
    assert strides(OPERATORS[name](*given)) == [
        (shape, stride, dtype, device) for shape, stride, dtype, device in expected
    ]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(1e-3, None, "equal", "max", "biased", "mean", "on", "leaky_relu", 0.2),
        Settings(eps=0.0, momentum=1, negative_slope=1e-300),
    ],
)
def test_settings_survive_their_encoding(settings: Settings) -> None:
    assert decoded(encoded(settings)) == core_options(settings)


def test_settings_of_an_older_program_have_the_defaults() -> None:
    assert decoded("eps=0.001, activation='relu'") == Options(eps=0.001, activation="relu")


def test_settings_that_the_core_does_not_know() -> None:
    with pytest.raises(InvalidArgumentError, match="weighting: got 'most, of', expected one of"):
        decoded(encoded(Settings(weighting="most, of")))


def test_a_dtype_is_refused_before_anything_runs() -> None:
    with FakeTensorMode(), pytest.raises(InvalidArgumentError, match="int64"):
        ops.moments(torch.empty(3, 4, dtype=torch.int64), encoded(Settings()), None, TAG)
