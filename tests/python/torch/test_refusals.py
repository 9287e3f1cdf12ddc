"""What the layer refuses, and the words it finds for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import syncnorm
from syncnorm.torch import (
    SyncBatchNorm,
    SyncBatchNorm1d,
    encoding,
    megengine,
    mmcv,
    mxnet,
    paddle,
    sync_batch_norm,
)


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean"])
def test_float64_parameter_with_float32_input_is_named(name: str) -> None:
    layer = SyncBatchNorm(5)
    getattr(layer, name).data = getattr(layer, name).data.double()
    with pytest.raises(ValueError, match=name):
        layer(torch.randn(4, 5))
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (torch.zeros(5), "at least 2D input .got 1D"),
        (torch.zeros(2, 4, 3), r"expected 5 channels .*\(got 4 .*\(2, 4, 3\)"),
        (torch.zeros(2, 5, dtype=torch.int64), "int64"),
    ],
)
def test_refused_inputs(input: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyncBatchNorm(5)(input)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"residual": torch.zeros(4, 5, 1)}, r"residual: got shape \(4, 5, 1\)"),
        ({"residual": torch.zeros(4, 5, 3).double()}, "residual: .*float64.*float32"),
        ({"mask": torch.ones(4, 2, 3)}, r"mask: got shape \(4, 2, 3\), expected \(4, 3\)"),
        ({"mask": torch.ones(4, 3)}, "mask: got dtype torch.float32"),
    ],
)
def test_refused_arguments(arguments: dict, message: str) -> None:
    layer = SyncBatchNorm(5)
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(4, 5, 3), **arguments)
    assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize(
    "option", [{"weighting": "mean"}, {"eps_mode": "plus"}, {"activation": "gelu"}]
)
def test_refused_options(option: dict) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=next(iter(option))):
        SyncBatchNorm(5, **option)


def _quantized(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: deprecated
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)


def _csr(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: in beta state
        return x.to_sparse_csr()


def _nested(x: Tensor, layout: torch.layout = torch.strided) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: a prototype
        return torch.nested.nested_tensor([x, x[:1]], layout=layout)


# And words of the error.
NOT_DENSE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "array": (lambda x: x.numpy(), "got ndarray, expected a torch.Tensor"),
    "list": (lambda x: x.tolist(), "got (list|float), expected a torch.Tensor"),
    "none": (lambda _: None, "got NoneType, expected a torch.Tensor"),
    "sparse": (lambda x: x.to_sparse(), r"layout torch\.sparse_coo.*pass tensor\.to_dense\(\)"),
    "csr": (_csr, r"torch\.sparse_csr.*tensor\.to_dense\(\)"),
    "mkldnn": (lambda x: x.to_mkldnn(), r"torch\._mkldnn.*tensor\.to_dense\(\)"),
    "quantized": (_quantized, r"a quantized tensor \(torch\.qint8\).*tensor\.dequantize\(\)"),
    "nested": (_nested, r"a nested tensor.*to_padded_tensor"),
    "jagged": (lambda x: _nested(x, torch.jagged), r"a nested tensor.*to_padded_tensor"),
}


def _functions() -> dict[str, Callable[[Any], Any]]:
    layers = [SyncBatchNorm, SyncBatchNorm1d, megengine.SyncBatchNorm, paddle.SyncBatchNorm]
    layers += [mmcv.SyncBatchNorm, mxnet.SyncBatchNorm, encoding.SyncBatchNorm]
    calls: dict[str, Callable[[Any], Any]] = {f"{each.__module__}": each(5) for each in layers}
    return {**calls, "sync_batch_norm": lambda x: sync_batch_norm(x, training=True)}


@pytest.mark.parametrize("function", _functions().values(), ids=_functions().keys())
@pytest.mark.parametrize(("make", "message"), NOT_DENSE.values(), ids=NOT_DENSE.keys())
def test_inputs_that_are_no_dense_tensors(make: Any, message: str, function: Any) -> None:
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"input: .*{message}"):
        function(make(torch.randn(4, 5)))


@pytest.mark.parametrize("name", ["residual", "weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("kind", ["sparse", "mkldnn", "quantized"])
@pytest.mark.parametrize("training", [True, False])
def test_other_arguments_that_are_not_dense(name: str, kind: str, training: bool) -> None:
    layer = SyncBatchNorm(5).train(training)
    given = {name: value.detach() for name, value in layer.state_dict().items()}
    del given["num_batches_tracked"]
    given["residual"] = torch.zeros(4, 5)
    make, message = NOT_DENSE[kind]
    given[name] = make(given[name])
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"{name}: .*{message}") as caught:
        sync_batch_norm(torch.randn(4, 5), **given, training=training)
    assert "Exception raised from" not in str(caught.value)


def test_a_gradient_that_is_not_dense() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    y = SyncBatchNorm(5)(x)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"gradient: .*sparse_coo"):
        torch.autograd.grad(y, x, torch.ones(4, 5).to_sparse())


def test_memory_that_is_gone_in_backward() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    y = SyncBatchNorm(5)(x)
    x.untyped_storage().resize_(0)
    with pytest.raises(syncnorm.InvalidArgumentError, match="x is NULL"):
        y.sum().backward()


def test_refused_process_group() -> None:
    with pytest.raises(TypeError, match="process_group: got str, expected"):
        SyncBatchNorm(5, process_group="world")(torch.zeros(2, 5))
