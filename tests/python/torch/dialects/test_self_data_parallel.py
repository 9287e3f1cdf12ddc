"""SelfDataParallel: a batch divided over devices, which here are replicas on the CPU."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from syncnorm.torch.encoding import BatchNorm1d, BatchNorm2d, SelfDataParallel, SelfParallel

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SIZES = pytest.mark.parametrize(
    ("devices", "parts"),
    [
        (["cpu"], [4]),
        (["cpu"] * 2, [2, 2]),
        (["cpu"] * 2, [3, 2]),
        (["cpu"] * 3, [3, 3, 1]),
        (["cpu"] * 3, [1, 1]),  # fewer samples than devices
    ],
)


def network(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), norm(2)
    ).double()


def of_lists(plain: nn.Sequential) -> nn.Sequential:
    """The same network with PyTorch-Encoding's layers, and the same numbers."""
    layers = copy.deepcopy(plain)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            layers[index] = BatchNorm2d(layer.num_features, dtype=torch.float64)
            layers[index].load_state_dict(layer.state_dict())
        else:
            layers[index] = SelfParallel(layer)
    return layers


def as_of_plain(layers: nn.Module) -> dict[str, Tensor]:
    """State by the names that it has in network()."""
    return {name.replace("module.", ""): value for name, value in layers.state_dict().items()}


@SIZES
def test_training_is_that_of_one_big_batch(devices: list[str], parts: list[int]) -> None:
    plain = network()
    parallel = SelfDataParallel(of_lists(plain), devices)
    for _ in range(3):
        x = torch.randn(sum(parts), 3, 5, 5, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        expected, outputs = plain(inputs[0]), parallel(inputs[1])
        assert type(outputs) is list
        assert [len(output) for output in outputs] == parts
        dy = torch.randn_like(expected)
        for model, y in [(plain, expected), (parallel, torch.cat(outputs))]:
            model.zero_grad()
            y.backward(dy)
        torch.testing.assert_close(torch.cat(outputs), expected, **EXACT)
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, **EXACT)
        gradients = [[p.grad for p in model.parameters()] for model in (plain, parallel)]
        torch.testing.assert_close(*gradients, **EXACT)
        for model in (plain, parallel):
            torch.optim.SGD(model.parameters(), 0.1).step()
    torch.testing.assert_close(as_of_plain(parallel), dict(plain.state_dict()), **EXACT)


@SIZES
def test_evaluation_is_a_list_too(devices: list[str], parts: list[int]) -> None:
    plain = network()
    plain(torch.randn(4, 3, 5, 5, dtype=torch.float64))
    parallel = SelfDataParallel(of_lists(plain), devices).eval()
    x = torch.randn(sum(parts), 3, 5, 5, dtype=torch.float64)
    outputs = parallel(x)
    assert [len(output) for output in outputs] == parts
    torch.testing.assert_close(torch.cat(outputs), plain.eval()(x), **EXACT)
    torch.testing.assert_close(as_of_plain(parallel), dict(plain.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_several_inputs_another_dimension_and_keywords(training: bool) -> None:
    class Scaled(nn.Module):
        def forward(self, a: list[Tensor], b: list[Tensor], scale: float):
            if self.training:
                return [x + scale * y for x, y in zip(a, b, strict=True)]
            return a + scale * b

    a, b = torch.randn(2, 3, 5)
    parallel = SelfDataParallel(Scaled(), ["cpu", "cpu"], dim=1).train(training)
    outputs = parallel(a, b, scale=2)
    assert [output.shape for output in outputs] == [(3, 3), (3, 2)]
    torch.testing.assert_close(torch.cat(outputs, 1), a + 2 * b)


def test_the_state_dict_has_the_names_of_the_original() -> None:
    layers = nn.Sequential(BatchNorm1d(4), SelfParallel(nn.Linear(4, 2)))
    parallel = SelfDataParallel(layers, ["cpu"])
    assert set(parallel.state_dict()) == {
        *(f"module.0.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
        "module.0.num_batches_tracked",
        "module.1.weight",
        "module.1.bias",
    }


def test_a_layer_in_self_parallel_has_its_own_state_dict() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Linear(4, 2)))
    wrapped = nn.Sequential(*map(SelfParallel, copy.deepcopy(plain)))
    assert wrapped.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        value.fill_(len(name))
    wrapped.load_state_dict(plain.state_dict())
    torch.testing.assert_close(wrapped.state_dict(), plain.state_dict())
    missing = {name: value for name, value in plain.state_dict().items() if name != "0.bias"}
    found = wrapped.load_state_dict({**missing, "0.more": torch.ones(1)}, strict=False)
    assert [*found.missing_keys, *found.unexpected_keys] == ["0.module.bias", "0.module.more"]
    pickle.loads(pickle.dumps(wrapped)).load_state_dict(plain.state_dict())


def test_a_layer_that_takes_lists_takes_a_tensor_too() -> None:
    layer = SelfParallel(nn.Linear(4, 2))
    xs = torch.randn(2, 3, 4)
    torch.testing.assert_close(layer(xs[0]), layer.module(xs[0]))
    torch.testing.assert_close(layer(list(xs)), [layer.module(x) for x in xs])


@pytest.mark.parametrize("device_ids", [None, []])
def test_no_device_is_refused(device_ids: list | None) -> None:
    with (
        mock.patch("torch.cuda.device_count", return_value=0),
        pytest.raises(ValueError, match="device_ids: got no device, expected one or more"),
    ):
        SelfDataParallel(nn.Identity(), device_ids)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_no_tensor_is_refused(training: bool) -> None:
    parallel = SelfDataParallel(nn.Identity(), ["cpu"]).train(training)
    with pytest.raises(TypeError, match="input: got list, expected a tensor to divide"):
        parallel([torch.zeros(2, 4)])
