"""The binding's wires, which may be longer than needed, and its workspace, which may be omitted."""

from __future__ import annotations

import pytest
import torch

import syncnorm
from support.binding_calls import (
    OPTIONS,
    OUTPUTS,
    C,
    call_arguments,
    expected,
    image,
    phase_arguments,
    view,
)
from syncnorm import _core
from syncnorm.comm import from_callback


def test_a_wire_that_is_too_short_or_not_dense_is_refused():
    x, wire, scratch = phase_arguments()
    short = rf"^wire: got shape \({len(wire) - 1},\), expected at least \({len(wire)},\)"
    strided = torch.zeros(2 * wire.numel()).double()[::2]
    for bad, message in (
        (wire[:-1], short),
        (wire.float(), "^wire: got dtype float32"),
        (strided, "^wire: got strides"),
        (wire[None], "^wire: got shape"),
    ):
        with pytest.raises(syncnorm.InvalidArgumentError, match=message):
            _core.moments(OPTIONS, x, bad, workspace=scratch)


def lengthened(vector: torch.Tensor) -> torch.Tensor:
    return torch.cat([vector, torch.full((5,), 7.0, dtype=torch.float64)])


def test_wires_may_be_longer():
    options = _core.Options(centering="on")
    x, dy = image(), image().flip(0)
    sizes = _core.sizes(x, options)

    def results(change) -> list[torch.Tensor]:
        def zeros(length: int) -> torch.Tensor:
            return change(torch.zeros(length, dtype=torch.float64))

        saved, var = (torch.zeros(n, dtype=torch.float64) for n in (sizes.saved, C))
        wire, center, grad = (zeros(n) for n in (sizes.wire, sizes.center_wire, sizes.grad_wire))
        mean, variance = torch.zeros(C), torch.ones(C)
        y, dx = torch.empty_like(x), torch.empty_like(x)
        _core.moments(options, x, wire, local_var=var)
        _core.center(options, x, 1, wire, wire.clone(), var, center)
        totals = {"center_total": center.clone()}
        _core.normalize(options, x, 1, wire, wire.clone(), y, saved=saved, **totals)
        _core.update_running(options, x, 1, wire, wire.clone(), mean, variance, **totals)
        _core.grad_moments(options, x, dy, saved, grad)
        _core.grad_input(options, x, dy, saved, 1, grad, grad.clone(), dx=dx)
        for vector, length in (
            (wire, sizes.wire),
            (center, sizes.center_wire),
            (grad, sizes.grad_wire),
        ):
            assert torch.equal(vector[length:], change(vector[:0]))
        return [y, saved, mean, variance, dx]

    for given, longer in zip(results(lambda wire: wire), results(lengthened), strict=True):
        assert torch.equal(given, longer)


def test_saved_and_local_var_have_exact_lengths():
    x, wire, _ = phase_arguments()
    saved = torch.zeros(_core.sizes(x, OPTIONS).saved + 1, dtype=torch.float64)
    local_var = torch.zeros(C + 1, dtype=torch.float64)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^saved: got shape .* expected \("):
        _core.forward(OPTIONS, None, x, torch.empty_like(x), saved=saved)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^local_var: .* expected \("):
        _core.moments(OPTIONS, x, wire, local_var=local_var)


def test_a_call_on_the_cpu_needs_no_workspace():
    given, own = call_arguments(image()), call_arguments(image())
    del own["workspace"]
    _core.forward(**given)
    _core.forward(**own)
    for name in OUTPUTS:
        assert torch.equal(given[name], own[name])


def test_nested_calls_without_a_workspace_do_not_share_one():
    inner, outer = call_arguments(image(torch.float64)), call_arguments(image())
    del inner["workspace"], outer["workspace"]
    calls = []

    def sum_of_two_equal_ranks(src: memoryview, dst: memoryview) -> None:
        calls.append(len(src))
        _core.forward(**inner)
        for i, value in enumerate(src):
            dst[i] = 2 * value

    outer["comm"] = from_callback(0, 2, sum_of_two_equal_ranks)
    _core.forward(**outer)
    assert len(calls) == 1
    for given, atol in ((inner, 1e-12), (outer, 4e-6)):
        torch.testing.assert_close(given["y"].double(), expected(given["x"]), rtol=0, atol=atol)


@pytest.mark.skipif(not syncnorm.capabilities()["cuda_built"], reason="no CUDA backend")
def test_a_call_on_a_cuda_device_needs_a_workspace():
    arguments = {
        key: view(value, device="cuda") if isinstance(value, torch.Tensor) else value
        for key, value in call_arguments(image()).items()
    }
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"^workspace: got None, .* cuda:0"):
        _core.forward(**{**arguments, "workspace": None})
