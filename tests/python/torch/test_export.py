"""torch.export, make_fx, fake tensors and the meta device: what sees operators, not memory."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from layouts import SHAPES, laid_out
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.proxy_tensor import make_fx

from syncnorm.torch import SyncBatchNorm, revert_sync_batchnorm

# What torch's own export does with its own classes and files.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
]


class Network(nn.Module):
    def __init__(self, activation: str = "relu") -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm = SyncBatchNorm(8, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.convolution(x))
        return y.mean((2, 3))


def trained(activation: str = "relu") -> Network:
    network = Network(activation)
    network(torch.randn(4, 3, 6, 6))
    return network.eval()


def operators(program: ExportedProgram) -> list[str]:
    calls = (node.target for node in program.graph.nodes if node.op == "call_function")
    return [target._opname for target in calls if getattr(target, "namespace", "") == "syncnorm"]


def saved_and_loaded(program: ExportedProgram) -> ExportedProgram:
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("valid", ["mask", "lengths"])
def test_an_exported_mask_of_any_length(valid: str) -> None:
    batch, length = Dim("batch", min=2), Dim("length", min=2)
    layer, example = SyncBatchNorm(3), torch.randn(4, 3, 6)
    mask, lengths = torch.rand(4, 6) > 0.3, torch.tensor([1, 6, 3, 2])
    given = {"mask": mask} if valid == "mask" else {"lengths": lengths}
    shape = {0: batch, 1: length} if valid == "mask" else {0: batch}
    shapes = {"input": {0: batch, 2: length}, valid: shape}
    program = export(layer, (example,), given, dynamic_shapes=shapes)
    x, counts = torch.randn(2, 3, 9), torch.tensor([9, 4])
    given = {valid: torch.arange(9) < counts[:, None] if valid == "mask" else counts}
    torch.testing.assert_close(program.module()(x, **given), layer(x, **given))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_layer_in_evaluation(dynamic: bool, strict: bool) -> None:
    network = trained()
    shapes = ({0: Dim("samples")},) if dynamic else None
    example = torch.randn(4, 3, 6, 6)
    program = export(network, (example,), dynamic_shapes=shapes, strict=strict)
    assert operators(program) == ["infer"]
    x = torch.randn(7 if dynamic else 4, 3, 6, 6)
    for each in (program, saved_and_loaded(program), program.run_decompositions()):
        assert torch.equal(each.module()(x), network(x))


def test_a_reverted_network_is_exported_without_this_library() -> None:
    network = trained(activation="identity")
    x = torch.randn(4, 3, 6, 6)
    expected = network(x)
    program = export(revert_sync_batchnorm(network), (x,))
    assert operators(program) == []
    torch.testing.assert_close(program.module()(x), expected)


def test_an_exported_layer_in_training_moves_its_statistics() -> None:
    network, x = Network(), torch.randn(4, 3, 6, 6)
    program = export(network, (x,))
    assert operators(program) == ["moments", "update_running", "normalize"]
    y = program.module()(x)
    assert torch.equal(y, network(x))
    network.norm.reset_running_stats()
    module = program.module()
    module(x)
    network(x)
    state = {name.removeprefix("norm."): t for name, t in module.state_dict().items()}
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(state[name], network.norm.state_dict()[name])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_operators(mode: str, training: bool) -> None:
    layer = SyncBatchNorm(5, track_running_stats=not training).train(training)
    x = torch.randn(4, 5, 3)
    graph = make_fx(lambda x: layer(x).detach(), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    x = torch.randn(4, 5, 3)
    assert torch.equal(graph(x), layer(x))


def assert_looks_like(got: Tensor, expected: Tensor) -> None:
    assert (got.shape, got.stride(), got.dtype) == (
        expected.shape,
        expected.stride(),
        expected.dtype,
    )


def gone_through(layer: nn.Module, x: Tensor) -> list[Any]:
    y = layer(x)
    y.backward(torch.ones_like(y))
    return [y, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_meta_device(shape: tuple[int, ...], layout: str, training: bool) -> None:
    real = SyncBatchNorm(5, activation="relu").train(training)
    meta = SyncBatchNorm(5, activation="relu", device="meta").train(training)
    x = laid_out(torch.randn(shape), layout)
    on_meta = torch.empty_strided(x.shape, x.stride(), device="meta").requires_grad_()
    for got, expected in zip(
        gone_through(meta, on_meta), gone_through(real, x.requires_grad_()), strict=True
    ):
        assert got.is_meta
        assert_looks_like(got, expected)


@pytest.mark.parametrize("training", [True, False])
def test_fake_tensors(training: bool) -> None:
    real = SyncBatchNorm(5, dtype=torch.float64).train(training)
    x = laid_out(torch.randn(2, 5, 4, 3, dtype=torch.float64), "channels_last").requires_grad_()
    expected = gone_through(real, x)
    with FakeTensorMode():
        fake = SyncBatchNorm(5, dtype=torch.float64).train(training)
        like = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype).requires_grad_()
        for got, other in zip(gone_through(fake, like), expected, strict=True):
            assert_looks_like(got, other)


def test_on_the_meta_device_arguments_are_checked() -> None:
    layer = SyncBatchNorm(5, device="meta")
    x = torch.empty(4, 5, 3, device="meta")
    with pytest.raises(ValueError, match=r"residual: got shape \(4, 5, 2\)"):
        layer(x, torch.empty(4, 5, 2, device="meta"))
    with pytest.raises(ValueError, match=r"mask: got shape \(4, 2\)"):
        layer(x, mask=torch.ones(4, 2, dtype=torch.bool, device="meta"))
