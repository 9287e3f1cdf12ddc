"""The binding: what it reads of an array, what it refuses, that a refusal writes nothing."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import syncnorm
from support.binding_calls import (
    OPTIONS,
    OUTPUTS,
    C,
    H,
    N,
    W,
    call_arguments,
    expected,
    image,
    phase_arguments,
    view,
)
from syncnorm import _core


def test_forward_writes_what_it_should():
    arguments = call_arguments(image())
    assert _core.forward(**arguments) is None
    torch.testing.assert_close(arguments["y"].double(), expected(image()), rtol=0, atol=4e-6)
    assert arguments["num_batches_tracked"] == 8
    assert not (arguments["running_mean"] == 7).any()


READABLE = {
    "contiguous": image(),
    "channels_last": image().contiguous(memory_format=torch.channels_last),
    "slice of rows": torch.cat([image(), image()])[N:],
    "requires_grad": image().requires_grad_(),
    "non-leaf": image().requires_grad_() * 1,
    "parameter": torch.nn.Parameter(image()),
    "half": image(torch.float16),
    "bfloat16": image(torch.bfloat16),
    "double": image(torch.float64),
    "rank 2": torch.randn(7, C),
    "rank 3": torch.randn(7, C, 4),
    "rank 5 channels_last": torch.randn(2, C, 2, 3, 4).contiguous(
        memory_format=torch.channels_last_3d
    ),
    "one channel, odd strides": torch.randn(N, 1, H, W).as_strided((N, 1, H, W), (H * W, 99, W, 1)),
    "no batch": torch.empty(0, C, H, W),
    "no positions": torch.empty(N, C, 0, W),
}


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("through", ["exchange API", "Array"])
def test_readable_inputs(name, through):
    x = READABLE[name]
    arguments = call_arguments(x)
    arguments["y"] = torch.full_like(x.detach(), 7)
    if through == "Array":
        arguments["x"] = view(x)
    before = x.detach().clone()
    _core.forward(**arguments)
    assert torch.equal(x.detach(), before)
    eps = torch.finfo(x.dtype).eps
    error = (arguments["y"].double() - expected(x.detach())).abs()
    assert x.numel() == 0 or error.max() < 8 * max(eps, 2**-23 if x.dtype != torch.float64 else 0)


REFUSED_X = {
    "0-dim": (torch.tensor(1.0), "at least 2 axes"),
    "rank 1": (torch.zeros(4), "at least 2 axes"),
    "sliced columns": (torch.zeros(N, C, H, 2 * W)[..., ::2], "dense"),
    "expanded": (torch.zeros(N, C, 1, 1).expand(N, C, H, W), "dense"),
    "transposed": (torch.zeros(C, N, H, W).transpose(0, 1), "dense"),
    "integers": (torch.zeros(N, C, dtype=torch.int64), "int64"),
    "complex": (torch.zeros(N, C, dtype=torch.complex64), "complex64"),
    "fp8": (torch.zeros(N, C).to(torch.float8_e4m3fn), "DLPack type code 10"),
}


@pytest.mark.parametrize("name", REFUSED_X)
def test_refused_x(name):
    x, message = REFUSED_X[name]
    with pytest.raises(syncnorm.InvalidArgumentError, match="^x: got .*" + message):
        _core.sizes(x, OPTIONS)


def wrong(**change: Any) -> Any:
    return change


REFUSED = {
    "y shape": wrong(y=torch.zeros(N, C, H, W + 1)),
    "y rank": wrong(y=torch.zeros(N, C, H * W)),
    "y dtype": wrong(y=torch.zeros(N, C, H, W, dtype=torch.float64)),
    "y layout": wrong(y=image().contiguous(memory_format=torch.channels_last)),
    "y read-only": wrong(y=view(torch.zeros(N, C, H, W), read_only=True)),
    "y device": wrong(y=view(torch.zeros(N, C, H, W), device="cuda")),
    "residual shape": wrong(residual=torch.zeros(N, C, H, 1)),
    "weight length": wrong(weight=torch.ones(C + 1)),
    "weight rank": wrong(weight=torch.ones(1, C)),
    "weight dtype": wrong(weight=torch.ones(C, dtype=torch.int64)),
    "weight float64": wrong(weight=torch.ones(C, dtype=torch.float64)),
    "weight strides": wrong(weight=torch.ones(2 * C)[::2]),
    "running_mean read-only": wrong(running_mean=view(torch.zeros(C), read_only=True)),
    "running_var absent": wrong(running_var=None),
    "num_batches_tracked dtype": wrong(num_batches_tracked=torch.tensor(1, dtype=torch.int32)),
    "num_batches_tracked shape": wrong(num_batches_tracked=torch.zeros(2, dtype=torch.int64)),
    "saved length": wrong(saved=torch.zeros(3 * C + 1, dtype=torch.float64)),
    "saved dtype": wrong(saved=torch.zeros(3 * C + 2)),
    "mask shape": wrong(mask=torch.ones(N, C, H, W, dtype=torch.uint8)),
    "mask dtype": wrong(mask=torch.ones(N, H, W)),
    "workspace too small": wrong(workspace=torch.empty(8, dtype=torch.uint8)),
    "workspace misaligned": wrong(workspace=torch.empty(1 << 16, dtype=torch.uint8)[1:]),
    "control too small": wrong(control=torch.zeros(_core.CONTROL_SIZE - 1, dtype=torch.uint8)),
    "control strides": wrong(control=torch.zeros(2 * _core.CONTROL_SIZE, dtype=torch.uint8)[::2]),
    "control device": wrong(control=view(torch.zeros(_core.CONTROL_SIZE), device="cuda")),
    "control read-only": wrong(control=view(torch.zeros(_core.CONTROL_SIZE), read_only=True)),
    "status dtype": wrong(status=torch.zeros(1, dtype=torch.int64)),
    "num_threads": wrong(num_threads=0),
    "x null": wrong(x=view(image(), pointer=0)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_arguments_write_nothing(name):
    arguments = call_arguments(image())
    outputs = {key: arguments[key] for key in OUTPUTS}
    with pytest.raises(syncnorm.InvalidArgumentError, match=name.split()[0]):
        _core.forward(**{**arguments, **REFUSED[name]})
    for key, tensor in outputs.items():
        assert (tensor == 7).all(), f"{key} was written"


@pytest.mark.parametrize("value", [None, 3, "x", [1.0], object()])
def test_what_is_no_array_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^y: got " + type(value).__name__) as caught:
        _core.forward(**{**call_arguments(image()), "y": value})
    assert type(caught.value) is syncnorm.ArgumentTypeError


def test_sizes_on_a_cuda_device_need_no_device():
    on_device = view(image(), device="cuda")
    if syncnorm.capabilities()["cuda_built"]:
        assert _core.sizes(on_device, OPTIONS).wire == _core.sizes(image(), OPTIONS).wire
    else:
        with pytest.raises(syncnorm.UnsupportedError, match="no CUDA backend"):
            _core.sizes(on_device, OPTIONS)


def test_wire_and_total_in_one_buffer_are_refused():
    x, wire, scratch = phase_arguments()
    _core.moments(OPTIONS, x, wire, workspace=scratch)
    y = torch.full_like(x, 7)
    with pytest.raises(syncnorm.InvalidArgumentError, match="total"):
        _core.normalize(OPTIONS, x, 2, wire, wire, y, workspace=scratch)
    assert (y == 7).all()


def test_desync_writes_nothing():
    x, wire, scratch = phase_arguments()
    _core.moments(OPTIONS, x, wire, workspace=scratch, tag=1)
    other = wire.clone()
    _core.moments(OPTIONS, x, other, workspace=scratch, tag=2)
    y, status = torch.full_like(x, 7), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(syncnorm.DesyncError):
        _core.normalize(
            OPTIONS, x, 2, wire, wire + other, y, workspace=scratch, status=status, tag=1
        )
    assert (y == 7).all()
    assert status.item() != 0


CHANGED = {
    "eps": 1e-3,
    "momentum": None,
    "weighting": "batch",
    "eps_mode": "max",
    "variance_factor": "unbiased_rank",
    "grad_reduction": "mean",
    "centering": "off",
    "activation": "leaky_relu",
    "negative_slope": 0.5,
    "in_place": True,
}


def test_options_hold_their_values_and_are_immutable():
    options = _core.Options(**CHANGED)
    for name, value in CHANGED.items():
        assert getattr(options, name) == value
        with pytest.raises(AttributeError):
            setattr(options, name, value)
        assert options != _core.Options(**{**CHANGED, name: getattr(OPTIONS, name)})
    assert eval(repr(options), {"Options": _core.Options}) == options
    assert options != object()


def test_options_copies_are_equal():
    options = _core.Options(**CHANGED)
    for other in (pickle.loads(pickle.dumps(options)), copy.deepcopy(options)):
        assert other == options
        assert hash(other) == hash(options)
        assert other is not options


@pytest.mark.parametrize(
    "change",
    [
        {"eps": -1e-5},
        {"eps": float("nan")},
        {"momentum": 1.5},
        {"momentum": -1.0},
        {"weighting": "counts"},
        {"eps_mode": ""},
        {"variance_factor": "Unbiased"},
        {"grad_reduction": "none"},
        {"centering": "yes"},
        {"activation": "gelu"},
        {"activation": "leaky_relu", "negative_slope": -1.0},
        {"activation": "relu", "in_place": True},
    ],
)
def test_options_refuse_bad_values(change):
    name = list(change)[-1]
    with pytest.raises(syncnorm.InvalidArgumentError, match=name):
        _core.Options(**change)


def test_array_refuses_what_it_cannot_be():
    for bad in ({"dtype": "float8"}, {"device": "tpu"}, {"shape": (1, 2)}, {"shape": (-1,)}):
        given = {"pointer": 0, "shape": (2,), "strides_in_elements": (1,), "dtype": "float32"}
        with pytest.raises(syncnorm.InvalidArgumentError):
            _core.Array(**{**given, **bad})


def test_sizes_are_those_of_the_interface():
    sizes = _core.sizes(image(torch.float64), OPTIONS)
    assert (sizes.wire, sizes.grad_wire, sizes.saved) == (2 * C + 4, 2 * C + 2, 3 * C + 2)
    assert sizes.center_wire == C + 3  # C + 2, made even
    assert _core.sizes(image(), OPTIONS).center_wire == 0
