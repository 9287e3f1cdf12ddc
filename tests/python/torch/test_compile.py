"""torch.compile of a group of one: equal to eager, whatever the options, shapes and modes are."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from inspection import Inspector
from layouts import laid_out
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from syncnorm.torch import SyncBatchNorm, sync_batch_norm

MOMENTS, UPDATE, NORMALIZE = "moments", "update_running", "normalize"


@pytest.fixture(autouse=True)
def fresh_compiler(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def leaf(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone().requires_grad_()


def run(
    call: Any, layer: nn.Module, x: Tensor, residual: Tensor | None = None, **given: Any
) -> dict[str, Tensor | None]:
    """Everything that a step leaves behind."""
    x, residual = leaf(x), leaf(residual)
    y = call(x, residual, **given) if residual is not None else call(x, **given)
    generator = torch.Generator().manual_seed(5)
    y.backward(torch.randn(y.shape, generator=generator).to(y))
    gradients = {f"{name}.grad": p.grad for name, p in layer.named_parameters()}
    of_residual = None if residual is None else residual.grad
    results = {"y": y, "x": x.grad, "residual": of_residual, **gradients}
    return {**results, **{name: b.clone() for name, b in layer.named_buffers()}}


def assert_same_bits(got: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor is None:
            assert got[name] is None, name
        else:
            torch.testing.assert_close(got[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)
            assert got[name].stride() == tensor.stride(), name


def assert_compiled_is_eager(
    layer: nn.Module,
    *args: Any,
    backend: Any = "aot_eager",
    dynamic: bool | None = None,
    **given: Any,
) -> None:
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=backend, dynamic=dynamic)
    for _ in range(2):
        assert_same_bits(run(compiled, layer, *args, **given), run(twin, twin, *args, **given))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("training", [True, False])
def test_every_backend_equals_eager(backend: str, training: bool) -> None:
    layer = SyncBatchNorm(5, activation="relu").train(training)
    assert_compiled_is_eager(layer, torch.randn(4, 5, 3), backend=backend)


@pytest.mark.parametrize(
    "options",
    [
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"momentum": None},
        {"weighting": "equal", "eps_mode": "max", "variance_factor": "biased"},
        {"grad_reduction": "mean", "activation": "leaky_relu", "negative_slope": 0.2},
        {"centering": "on"},
    ],
    ids=",".join,
)
def test_options(options: dict[str, Any]) -> None:
    assert_compiled_is_eager(SyncBatchNorm(5, **options), torch.randn(4, 5, 3))


@pytest.mark.parametrize("training", [True, False])
def test_in_place_layers_compile(training: bool) -> None:
    """Their input stays as it is: what to reuse is then the compiler's business."""
    layer = SyncBatchNorm(5, activation="elu", in_place=True)
    model = nn.Sequential(nn.Hardtanh(), layer).train(training)
    assert_compiled_is_eager(model, torch.randn(4, 5, 3))


@pytest.mark.parametrize(
    ("layout", "activation", "training"),
    [
        ("channels_first", "identity", True),
        ("channels_first", "relu", False),
        ("channels_last", "relu", True),
        ("channels_last", "identity", False),
    ],
)
def test_residual(layout: str, activation: str, training: bool) -> None:
    x = laid_out(torch.randn(4, 5, 3, 2), layout)
    layer = SyncBatchNorm(5, activation=activation).train(training)
    assert_compiled_is_eager(layer, x, torch.randn(4, 5, 3, 2))


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 3)])
def test_mask(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape) > 0.3
    assert_compiled_is_eager(SyncBatchNorm(5), torch.randn(4, 5, 3), mask=mask)


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 5, 0), (1, 5), (2, 5, 2, 2, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert_compiled_is_eager(SyncBatchNorm(5), torch.randn(shape))


@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        (torch.float64, torch.float64),
        (torch.float64, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
)
def test_dtypes(dtype: torch.dtype, parameters: torch.dtype) -> None:
    assert_compiled_is_eager(SyncBatchNorm(5, dtype=parameters), torch.randn(4, 5, 3, dtype=dtype))


@pytest.mark.parametrize(
    "x",
    [torch.rand(4, 10, 3, 2)[:, ::2], torch.rand(3, 4, 2, 5).permute(1, 3, 0, 2)],
    ids=["every other channel", "permuted"],
)
def test_strides_that_are_not_dense(x: Tensor) -> None:
    assert_compiled_is_eager(SyncBatchNorm(5), x)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_gradient_in_the_other_layout(layout: str) -> None:
    layer, x = SyncBatchNorm(5), laid_out(torch.randn(4, 5, 3, 2), layout)
    other = "channels_last" if layout == "channels_first" else "channels_first"

    class WithTransposedGradient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return laid_out(self.layer(x), other)

    assert_compiled_is_eager(WithTransposedGradient(), x)


def test_one_graph_for_all_batch_sizes() -> None:
    layer, backend = SyncBatchNorm(5), CompileCounterWithBackend("aot_eager")
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for size in (4, 7, 9, 2):
        x = torch.randn(size, 5, 3, 3)
        torch._dynamo.mark_dynamic(x, 0)
        assert_same_bits({"y": compiled(x)}, {"y": twin(x)})
    assert backend.frame_count == 1
    assert_same_bits(dict(layer.named_buffers()), dict(twin.named_buffers()))


def test_dynamic_shapes() -> None:
    layer = SyncBatchNorm(5)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in [(4, 5, 3), (3, 5, 8), (1, 5, 2), (0, 5, 2)]:
        x = torch.randn(shape)
        assert_same_bits(run(compiled, layer, x), run(twin, twin, x))


def test_a_size_that_only_the_data_tell() -> None:
    """As after boolean indexing: one graph for any number of samples, none included."""
    layer, backend = SyncBatchNorm(5), CompileCounterWithBackend("aot_eager")
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for size in (4, 7, 0, 1):
        x = torch.randn(size, 5, 3)
        torch._dynamo.decorators.mark_unbacked(x, 0)
        assert_same_bits({"y": compiled(x)}, {"y": twin(x)})
    assert backend.frame_count == 1


def test_options_that_change_between_calls() -> None:
    layer = SyncBatchNorm(5)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for momentum in (0.1, 0.2, 0.3, None):
        layer.momentum = twin.momentum = momentum
        x = torch.randn(4, 5)
        assert_same_bits(run(compiled, layer, x), run(twin, twin, x))


def test_a_function_with_an_epsilon_that_changes() -> None:
    def normalize(x: Tensor, eps: float) -> Tensor:
        return sync_batch_norm(x, training=True, eps=eps)

    compiled = torch.compile(normalize, fullgraph=True, backend="aot_eager")
    for eps in (1e-5, 1e-3, 0.5):
        x = torch.randn(4, 5)
        assert_same_bits({"y": compiled(x, eps)}, {"y": normalize(x, eps)})


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_statistics_move_without_gradients(guard: Any) -> None:
    layer = SyncBatchNorm(5)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 5)
    with guard():
        for _ in range(2):
            y, expected = compiled(x), twin(x)
    assert not y.requires_grad
    assert_same_bits({"y": y, **layer.state_dict()}, {"y": expected, **twin.state_dict()})


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = checkpoint(self.inner, x, use_reentrant=self.reentrant)
        return 2 * y


def test_checkpointing_inside_moves_statistics_once() -> None:
    inner = nn.Sequential(SyncBatchNorm(5), nn.ReLU())
    inspector = Inspector()
    assert_compiled_is_eager(
        Checkpointed(inner, reentrant=False), torch.randn(4, 5), backend=inspector
    )
    assert inspector.forward == [[MOMENTS, UPDATE, NORMALIZE]]
    (backward,) = inspector.backward
    assert UPDATE not in backward
    assert inner[0].num_batches_tracked.item() == 2


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_checkpointing_of_what_is_compiled_moves_statistics_once(
    backend: str, reentrant: bool
) -> None:
    layer = SyncBatchNorm(5)
    twin = copy.deepcopy(layer)
    compiled = Checkpointed(torch.compile(layer, fullgraph=True, backend=backend), reentrant)
    x = torch.randn(4, 5)

    def twice(x: Tensor) -> Tensor:
        return 2 * twin(x)

    assert_same_bits(run(compiled, layer, x), run(twice, twin, x))


def test_a_group_of_one_has_no_sum_in_its_graph() -> None:
    inspector = Inspector()
    compiled = torch.compile(SyncBatchNorm(5), fullgraph=True, backend=inspector)
    compiled(torch.randn(4, 5)).sum().backward()
    assert inspector.forward == [[MOMENTS, UPDATE, NORMALIZE]]
    assert inspector.backward == [["grad_moments", "grad_input"]]


def test_evaluation_is_one_operator() -> None:
    inspector = Inspector()
    layer = SyncBatchNorm(5).eval().requires_grad_(False)
    torch.compile(layer, fullgraph=True, backend=inspector)(torch.randn(4, 5))
    assert inspector.forward == [["infer"]]


def test_gradients_that_nobody_wants_are_not_made() -> None:
    layer, x = SyncBatchNorm(5), torch.randn(4, 5)
    layer.bias.requires_grad_(False)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is None


def test_an_option_that_does_not_exist() -> None:
    compiled = torch.compile(sync_batch_norm, fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match="weighting: got 'all', expected"):
        compiled(torch.randn(4, 5), training=True, weighting="all")
