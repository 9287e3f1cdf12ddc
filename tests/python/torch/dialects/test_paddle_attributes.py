"""weight_attr and bias_attr of paddle's layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from syncnorm.torch.paddle import ParamAttr, SyncBatchNorm

ARGUMENTS = {"weight_attr": ("weight", 1.0), "bias_attr": ("bias", 0.0)}


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize(
    ("attr", "value", "trained"),
    [
        (None, None, True),
        (True, None, True),
        (False, None, False),
        ("w", None, True),
        (0, 0.0, True),
        (0.25, 0.25, True),
        (lambda tensor: tensor.fill_(3), 3.0, True),
        (nn.init.ones_, 1.0, True),
        (ParamAttr(), None, True),
        (ParamAttr("w", initializer=0.5), 0.5, True),
        (ParamAttr(initializer=nn.init.zeros_, trainable=False), 0.0, False),
        (ParamAttr(initializer="ones", learning_rate=0), 1.0, False),
        (ParamAttr(learning_rate=0.0), None, False),
        (SimpleNamespace(initializer=0.5), 0.5, True),
        (ParamAttr(regularizer=SimpleNamespace(_coeff=0.0)), None, True),
        (ParamAttr(regularizer=SimpleNamespace(_regularization_coeff=0)), None, True),
        (SimpleNamespace(initializer=None, trainable=False, learning_rate=1.0), None, False),
    ],
)
def test_what_an_attribute_makes(argument: str, attr: Any, value: Any, trained: bool) -> None:
    name, default = ARGUMENTS[argument]
    layer = SyncBatchNorm(3, **{argument: attr}, dtype=torch.float64)
    parameter = getattr(layer, name)
    expected = torch.full((3,), default if value is None else value, dtype=torch.float64)
    assert torch.equal(parameter, expected)
    assert isinstance(parameter, nn.Parameter)
    layer(torch.randn(4, 3, dtype=torch.float64)).pow(2).sum().backward()
    assert (parameter.grad is not None) == trained
    assert list(layer.state_dict()) == ["weight", "bias", "_mean", "_variance"]
    other = "bias" if name == "weight" else "weight"
    assert getattr(layer, other).grad is not None


def test_constant_parameters_are_used() -> None:
    x = torch.randn(4, 3)
    layer = SyncBatchNorm(3, weight_attr=False, bias_attr=False)
    assert not layer(x).requires_grad
    state = {**layer.state_dict(), "weight": torch.full((3,), 2.0), "bias": torch.ones(3)}
    y = layer(x)
    layer.load_state_dict(state, strict=True)
    torch.testing.assert_close(layer(x), 2 * y + 1)


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize(
    ("attr", "message"),
    [
        (ParamAttr(learning_rate=0.5), "got learning_rate=0.5 and regularizer=None, expected 1"),
        (ParamAttr(regularizer="L2"), "got learning_rate=1.0 and regularizer='L2', expected 1 or"),
        (ParamAttr(regularizer=SimpleNamespace(_coeff=0.1)), "got learning_rate=1.0 and regulari"),
        (SimpleNamespace(initializer=None, learning_rate=2), "got learning_rate=2 and"),
        (ParamAttr(initializer="xavier"), "got 'xavier', expected one of zeros"),
        ([1.0], r"got \[1.0\], expected one of zeros"),
    ],
)
def test_what_an_attribute_cannot_say(argument: str, attr: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: {message}"):
        SyncBatchNorm(3, **{argument: attr})
