"""torch.jit.trace and script, torch.fx, torch.onnx and TensorBoard: recorded, or refused."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx import symbolic_trace

from syncnorm import InvalidArgumentError, UnsupportedError
from syncnorm.torch import (
    SyncBatchNorm,
    SyncBatchNorm1d,
    SyncBatchNorm2d,
    SyncBatchNorm3d,
    SyncBatchNormAct2d,
    convert_sync_batchnorm,
    encoding,
    megengine,
    mmcv,
    mxnet,
    paddle,
    revert_sync_batchnorm,
    sync_batch_norm,
    sync_batch_norm_shards,
)

# torch has deprecated the older tracers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

REFUSED = pytest.raises(UnsupportedError, match="revert_sync_batchnorm")
PLANE = (4, 3, 6, 5)

# A function that makes the layer, and the shape of its input.
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "any": (lambda: SyncBatchNorm(3), (4, 3)),
    "six dimensions": (lambda: SyncBatchNorm(3), (2, 3, 2, 1, 2, 2)),
    "1d": (lambda: SyncBatchNorm1d(3), (4, 3, 5)),
    "2d": (lambda: SyncBatchNorm2d(3), PLANE),
    "3d": (lambda: SyncBatchNorm3d(3), (4, 3, 2, 3, 2)),
    "relu": (lambda: SyncBatchNorm2d(3, activation="relu"), PLANE),
    "elu": (lambda: SyncBatchNorm2d(3, activation="elu"), PLANE),
    "leaky_relu": (
        lambda: SyncBatchNorm2d(3, activation="leaky_relu", negative_slope=0.2),
        PLANE,
    ),
    "no parameters": (lambda: SyncBatchNorm2d(3, affine=False), PLANE),
    "eps_mode max": (lambda: SyncBatchNorm2d(3, eps=0.7, eps_mode="max"), PLANE),
    "in place": (lambda: SyncBatchNorm2d(3, in_place=True), PLANE),
    "freeze": (lambda: SyncBatchNorm2d(3, freeze=True), PLANE),
    "act": (lambda: SyncBatchNormAct2d(3, act=nn.SiLU(), activation="relu"), PLANE),
    "encoding": (lambda: encoding.BatchNorm2d(3), PLANE),
    "encoding 1.0": (lambda: encoding.SyncBatchNorm(3, activation="leaky_relu"), PLANE),
    "megengine": (lambda: megengine.SyncBatchNorm(3), PLANE),
    "mmcv": (lambda: mmcv.SyncBatchNorm(3), PLANE),
    "mxnet": (lambda: mxnet.SyncBatchNorm(3), PLANE),
    "paddle": (lambda: paddle.SyncBatchNorm(3, data_format="NHWC"), (4, 6, 5, 3)),
}
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)


class Branches(nn.Module):
    """x -> layer(x, residual=2 x)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, residual=2 * x)


def random_(layer: nn.Module) -> nn.Module:
    """Give parameters and running statistics values that differ from each other."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in (*layer.parameters(), *layer.buffers()):
            if each.is_floating_point():
                each.copy_(torch.rand(each.shape, generator=generator) + 0.5)
    return layer


def values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = LAYERS[name]
    return nn.Sequential(random_(make())).eval(), shape


def network(**options: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), random_(SyncBatchNorm2d(4, **options)), nn.ReLU())


def kinds(graph: torch.fx.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


# ------------------------------------------------------------------------------------- torch.jit


@EVERY_LAYER
def test_a_trace_has_the_eager_values(name: str) -> None:
    layer, shape = made(name)
    traced = torch.jit.trace(layer, values(shape))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    assert "syncnorm::" not in str(traced.inlined_graph)
    x = values((shape[0] + 3, *shape[1:]), seed=1)
    expected = layer(x.clone())
    for each in (traced, torch.jit.load(file)):
        torch.testing.assert_close(each(x), expected)


@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        (torch.float16, torch.float32),
        (torch.float16, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float64, torch.float32),
    ],
)
def test_a_trace_of_mixed_dtypes(dtype: torch.dtype, parameters: torch.dtype) -> None:
    layer = random_(SyncBatchNorm(3)).to(parameters).eval()
    x = values((4, 3, 5)).to(dtype)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x + 1), layer(x + 1))


def test_a_trace_with_a_residual() -> None:
    layer = Branches(random_(SyncBatchNorm(3, activation="relu"))).eval()
    x = values((4, 3, 5))
    torch.testing.assert_close(torch.jit.trace(layer, x)(x + 1), layer(x + 1))


def test_a_residual_of_another_shape_is_refused_while_tracing() -> None:
    layer = SyncBatchNorm(3).eval()
    with pytest.raises(InvalidArgumentError, match="residual: got shape"):
        torch.jit.trace(layer, (values((4, 3, 5)), values((4, 3, 1))))


def test_the_gradients_of_a_trace() -> None:
    layer = random_(SyncBatchNorm(3, activation="leaky_relu")).eval()
    gradients = []
    for call in (layer, torch.jit.trace(layer, values((4, 3, 5)))):
        layer.zero_grad()
        x = values((4, 3, 5), seed=1).requires_grad_()
        call(x).square().sum().backward()
        gradients.append([x.grad, layer.weight.grad, layer.bias.grad])
    torch.testing.assert_close(*gradients)


def test_a_trace_of_a_list() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = random_(SyncBatchNorm(3))

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return tuple(self.layer([x, y]))

    pair, inputs = Pair().eval(), (values((4, 3)), values((2, 3)))
    torch.testing.assert_close(torch.jit.trace(pair, inputs)(*inputs), pair(*inputs))
    with REFUSED:
        torch.jit.trace(pair.train(), inputs)


def test_traces_of_the_functions() -> None:
    mean, var, x = torch.rand(3), torch.rand(3) + 0.5, values((4, 3, 5))

    def infer(x: Tensor) -> Tensor:
        return sync_batch_norm(x, mean, var, activation="relu")

    torch.testing.assert_close(torch.jit.trace(infer, x)(x + 1), infer(x + 1))
    with REFUSED:
        torch.jit.trace(lambda x: sync_batch_norm(x, training=True), x)
    with REFUSED:
        torch.jit.trace(lambda x: sync_batch_norm_shards([x, x])[0], x)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "freeze"])
def test_a_trace_of_training_is_refused(name: str) -> None:
    layer, shape = made(name)
    with REFUSED:
        torch.jit.trace(layer.train(), values(shape))


def test_a_trace_without_running_statistics_is_refused() -> None:
    with REFUSED:
        torch.jit.trace(SyncBatchNorm(3, track_running_stats=False).eval(), values((4, 3)))


@EVERY_LAYER
@pytest.mark.parametrize("training", [True, False])
def test_scripting_is_refused_and_changes_nothing(name: str, training: bool) -> None:
    layer, _ = made(name)
    inside = layer[0]
    with REFUSED:
        torch.jit.script(layer.train(training))
    assert layer[0] is inside


def test_a_reverted_network_can_be_scripted() -> None:
    layers = convert_sync_batchnorm(nn.Sequential(random_(nn.BatchNorm2d(3)), nn.ReLU())).eval()
    scripted = torch.jit.script(revert_sync_batchnorm(copy.deepcopy(layers)))
    x = values(PLANE)
    torch.testing.assert_close(scripted(x), layers(x))


def test_tensorboard_draws_the_graph(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    layers = network(activation="relu")  # in training: the writer switches to evaluation
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(layers, values(PLANE))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "aten::batch_norm" in {node.op for node in events.Graph().node}
    assert layers.training


# ------------------------------------------------------------------------------------- torch.onnx


def run_onnx(file: bytes, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert isinstance(result, np.ndarray)
    return torch.from_numpy(result)


def exported(layer: nn.Module, x: Tensor, dynamo: bool) -> bytes:
    file = io.BytesIO()
    if dynamo:
        torch.onnx.export(layer, (x,), dynamo=True, verbose=False).save(file)
    else:
        torch.onnx.export(layer, (x,), file, dynamo=False)
    return file.getvalue()


DYNAMO = pytest.mark.parametrize("dynamo", [True, False])


@DYNAMO
@EVERY_LAYER
def test_an_onnx_model_has_the_eager_values(name: str, dynamo: bool) -> None:
    layer, shape = made(name)
    file, x = exported(layer, values(shape), dynamo), values(shape, seed=1)
    torch.testing.assert_close(run_onnx(file, x), layer(x.clone()).detach(), rtol=1e-5, atol=1e-5)


@DYNAMO
def test_an_onnx_model_with_a_residual(dynamo: bool) -> None:
    layer = Branches(random_(SyncBatchNorm2d(3, activation="relu"))).eval()
    file, x = exported(layer, values(PLANE), dynamo), values(PLANE, seed=1)
    torch.testing.assert_close(run_onnx(file, x), layer(x).detach(), rtol=1e-5, atol=1e-5)


def test_the_legacy_onnx_exporter_switches_to_evaluation() -> None:
    layers = network()
    x = values(PLANE)
    file = exported(layers, x, dynamo=False)
    assert layers.training
    expected = layers.eval()(x).detach()
    torch.testing.assert_close(run_onnx(file, x), expected, rtol=1e-5, atol=1e-5)
    with REFUSED:
        torch.onnx.export(
            layers.train(),
            (x,),
            io.BytesIO(),
            dynamo=False,
            training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
        )


@pytest.mark.filterwarnings("ignore:Exporting a model while it is in training mode:UserWarning")
def test_the_onnx_exporter_of_dynamo_refuses_training() -> None:
    with pytest.raises(torch.onnx.OnnxExporterError, match="revert_sync_batchnorm"):
        exported(network(), values(PLANE), dynamo=True)


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs/pytorch-compile.md").read_text(encoding="utf-8")
    section = page.partition("## Tracers")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "model": network(), "example": values(PLANE)}
    exec(compile(code, "docs/pytorch-compile.md", "exec"), names)
    expected = names["model"](names["example"])
    for name in ("traced", "graph"):
        torch.testing.assert_close(names[name](names["example"]), expected)
    assert run_onnx((tmp_path / "model.onnx").read_bytes(), values(PLANE)).shape == expected.shape


# --------------------------------------------------------------------------------------- torch.fx


@EVERY_LAYER
@pytest.mark.parametrize("training", [True, False])
def test_fx_sees_a_leaf(name: str, training: bool) -> None:
    layers, shape = made(name)
    graph = symbolic_trace(layers.train(training))
    assert kinds(graph.graph) == ["placeholder", "call_module", "output"]
    x = values(shape)
    expected = copy.deepcopy(layers)(x.clone())
    torch.testing.assert_close(graph(x.clone()), expected, rtol=0, atol=0)


def test_a_leaf_keeps_its_arguments() -> None:
    class Masked(Branches):
        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.layer(x, 2 * x, mask)

    network = Masked(SyncBatchNorm(3))
    graph = symbolic_trace(network)
    (call,) = [node for node in graph.graph.nodes if node.op == "call_module"]
    assert call.target == "layer"
    assert list(call.kwargs) == ["residual", "mask"]
    x, mask = values((4, 3, 5)), torch.arange(5).expand(4, 5) < 3
    expected = copy.deepcopy(network)(x, mask)
    torch.testing.assert_close(graph(x, mask), expected, rtol=0, atol=0)


def test_a_graph_is_traced_and_copied_again() -> None:
    layers = network().eval()
    again = symbolic_trace(copy.deepcopy(symbolic_trace(layers)))
    assert kinds(again.graph) == ["placeholder", *["call_module"] * 3, "output"]
    assert isinstance(again.get_submodule("1"), SyncBatchNorm2d)
    transformed = torch.fx.Transformer(again).transform()
    x = values(PLANE)
    assert torch.equal(transformed(x), layers(x))


def test_fx_refuses_a_layer_that_is_not_a_part() -> None:
    with REFUSED:
        symbolic_trace(SyncBatchNorm(3))


def test_fx_refuses_hooks_that_would_run_twice() -> None:
    layers = network()
    layers[1].register_forward_hook(lambda *arguments: 2 * arguments[-1])
    with REFUSED:
        symbolic_trace(layers)


def test_fx_refuses_a_constant_input_with_a_traced_residual() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = SyncBatchNorm(3)

        def forward(self, x: Tensor) -> Any:
            return self.layer(torch.ones(2, 3), residual=x)

    with pytest.raises(UnsupportedError, match="constant input with a traced residual"):
        symbolic_trace(Network())


class Scaled(SyncBatchNorm2d):
    def forward(self, input: Any) -> Any:
        return 2 * super().forward(input)


def test_fx_refuses_a_forward_around_that_of_the_layer() -> None:
    layers = nn.Sequential(Scaled(3))
    with REFUSED:
        symbolic_trace(layers)

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, Scaled) or super().is_leaf_module(module, name)

    assert kinds(Tracer().trace(layers)) == ["placeholder", "call_module", "output"]


def fuse(layers: nn.Module) -> torch.fx.GraphModule:
    from torch.fx.experimental import optimization  # warns when it is imported

    fused: torch.fx.GraphModule = optimization.fuse(layers)
    return fused


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_fuse_leaves_the_layer(activation: str) -> None:
    layers, x = network(activation=activation).eval(), values(PLANE)
    torch.testing.assert_close(fuse(layers)(x), layers(x), rtol=0, atol=0)


def test_fuse_folds_a_reverted_layer() -> None:
    layers = convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), random_(nn.BatchNorm2d(4))))
    fused, x = fuse(revert_sync_batchnorm(copy.deepcopy(layers.eval()))), values(PLANE)
    assert kinds(fused.graph) == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(fused(x), layers(x))


@pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantization_sees_a_leaf() -> None:
    layers, x = network(activation="relu").eval(), values(PLANE)
    prepared = prepare_fx(copy.deepcopy(layers), get_default_qconfig_mapping(), (x,))
    assert isinstance(prepared.get_submodule("1"), SyncBatchNorm2d)
    torch.testing.assert_close(prepared(x), layers(x), rtol=0, atol=0)
    quantized = convert_fx(prepared)
    torch.testing.assert_close(quantized(x), layers(x), rtol=0.1, atol=0.1)
