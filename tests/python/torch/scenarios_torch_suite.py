"""What every rank of test_torch_suite.py's worlds does."""

from __future__ import annotations

import functools
import io
import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch_suite_trainings import TRAININGS, Network, Training, numbers
from training_runs import part
from worlds import Scenario

from support.scenarios import error_of, scenario_of
from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

FORMATS = {
    4: [torch.contiguous_format, torch.channels_last],
    5: [torch.contiguous_format, torch.channels_last_3d],
}


def train_on_ranks(training: Training, rank: int, size: int) -> Any:
    parallel = DistributedDataParallel(convert_sync_batchnorm(training.new()))
    steps = training.run(parallel, size, part(training.sizes(size), rank), divisor=size)
    return steps, parallel.module.state_dict()


SCENARIOS.update(
    {name: functools.partial(train_on_ranks, training) for name, training in TRAININGS.items()}
)


@scenario
def saved_and_loaded(rank: int, size: int) -> Any:
    training = TRAININGS["network"]
    parallel = DistributedDataParallel(convert_sync_batchnorm(training.new()))
    file = io.BytesIO()
    torch.save(parallel, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    steps = training.run(loaded, size, part(training.sizes(size), rank), divisor=size)
    return steps, loaded.module.state_dict()


@scenario
def half(rank: int, size: int) -> Any:
    network = DistributedDataParallel(convert_sync_batchnorm(Network().half()))
    out = network(numbers(rank, 2, 2).half())
    out.sum().backward()
    dtypes = [out.dtype, *(parameter.grad.dtype for parameter in network.parameters())]
    layer = SyncBatchNorm(2, dtype=torch.float16)
    x = numbers(rank, 3, 2, 5).half().requires_grad_()
    y = layer(x)
    y.backward(numbers(50 + rank, 3, 2, 5).half())
    return dtypes, y, x.grad, layer.weight.grad, layer.bias.grad


# --------------------------------------------------------- different sizes, groups, empty batches


def wide(rank: int) -> Tensor:
    """Two samples of two channels, with ten times as many values on each next rank."""
    values = torch.tensor([0.1, 0.3], dtype=torch.float64).pow(rank - 1)
    return values.reshape(1, 2, 1).repeat(2, 1, 10 ** (rank + 1))


@scenario
def running_values_of_different_input_sizes(rank: int, _: int) -> Any:
    model = DistributedDataParallel(SyncBatchNorm(2, momentum=0.99, dtype=torch.float64))
    for _step in range(10):  # after which 1e-20 of the first values is left
        model(wide(rank)).mean().backward()
    return model.module.state_dict()


@scenario
def group_of_nested_layers(rank: int, size: int) -> Any:
    group = dist.new_group([0])
    model = nn.Sequential(nn.Sequential(nn.ModuleDict({"norm": nn.BatchNorm2d(2)})), nn.ReLU())
    converted = convert_sync_batchnorm(model, group)
    return converted[0][0]["norm"].process_group is group


def empty_on(empty: bool, rank: int, *sample: int) -> Tensor:
    return numbers(rank, 0 if empty else 3, *sample)


@scenario
def empty_batches(rank: int, _: int) -> Any:
    """On the first rank, then on all; wrapped before conversion, as torch's check has it."""
    results = []
    for requires_grad, everywhere in itertools.product((True, False), (False, True)):
        parallel = DistributedDataParallel(nn.Sequential(nn.BatchNorm2d(2).double()))
        model = convert_sync_batchnorm(parallel, dist.group.WORLD)
        x = empty_on(everywhere or rank == 0, rank, 2, 5, 4).requires_grad_(requires_grad)
        y = model(x)
        y.square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append((y, x.grad, gradients, dict(model.module.state_dict())))
    return results


@scenario
def empty_batches_between_other_layers(rank: int, _: int) -> Any:
    torch.manual_seed(8)
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Linear(6, 2)).double()
    model = convert_sync_batchnorm(DistributedDataParallel(network), dist.group.WORLD)
    results = []
    for everywhere in (False, True):
        model.zero_grad()
        model(empty_on(everywhere or rank == 0, rank, 2, 8, 8)).square().sum().backward()
        results.append([parameter.grad.clone() for parameter in model.parameters()])
    return results


@scenario
def one_value_in_the_whole_group(rank: int, _: int) -> Any:
    layer = SyncBatchNorm(3, dtype=torch.float64)
    y = layer(numbers(rank, 1 if rank == 0 else 0, 3))
    return y, layer.running_var


# ----------------------------------------------------------------- evaluation, and uneven inputs


class Collectives(TorchDispatchMode):
    """The names of the collectives that were dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@scenario
def inference_on_one_rank(rank: int, _: int) -> Any:
    layers = [SyncBatchNorm(2, track_running_stats=tracked).double() for tracked in (True, False)]
    tracked, untracked = (DistributedDataParallel(layer).eval() for layer in layers)
    if rank > 0:
        return None
    # The wrapper would broadcast the running statistics, and for that it needs the other ranks.
    models = (tracked.module, untracked)
    return [[model(numbers(9, 6, 2, 4, 4)) for _ in range(3)] for model in models]


@scenario
def training_then_evaluation(rank: int, _: int) -> Any:
    layer = SyncBatchNorm(2, momentum=0.99, dtype=torch.float64)
    x = numbers(rank, 5, 2, 4, 4)
    with Collectives() as training:
        layer(x).sum().backward()
    layer.zero_grad()
    layer.eval()
    if rank > 0:
        return training.names, None
    with Collectives() as evaluation:
        x = x.requires_grad_()
        y = layer(x)
        y.square().sum().backward()
    return training.names, (evaluation.names, y, x.grad, layer.weight.grad, layer.bias.grad)


@scenario
def uneven_inputs_with_join(rank: int, _: int) -> Any:
    """The first rank has twice as many batches as the others."""
    model = DistributedDataParallel(convert_sync_batchnorm(TRAININGS["network"].new()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    done = []

    def train() -> None:
        with model.join(throw_on_early_termination=True):
            for step in range(10 if rank == 0 else 5):
                optimizer.zero_grad()
                model(numbers(10 * step + rank, 4, 2)).square().sum().backward()
                optimizer.step()
                done.append(step)

    error = error_of(train)
    return error, len(done), model.module.state_dict()


# ------------------------------------------------------------------------------- memory formats


@scenario
def memory_formats_of_input_and_gradient(rank: int, _: int) -> Any:
    """Every mix on every rank; with "other", neighbours differ as well."""
    results = {}
    for shape in ((2, 3, 2, 1), (2, 5, 4, 3), (2, 3, 3, 2, 4)):
        formats = FORMATS[len(shape)]
        for of_x, of_dy, other in itertools.product((0, 1), (0, 1), (False, True)):
            chosen = formats[of_x ^ (rank % 2 if other else 0)]
            x = numbers(rank, *shape).contiguous(memory_format=chosen).requires_grad_()
            layer = SyncBatchNorm(shape[1], dtype=torch.float64)
            y = layer(x)
            dy = numbers(50 + rank, *shape).contiguous(memory_format=formats[of_dy])
            y.backward(dy)
            kept = all(t.is_contiguous(memory_format=chosen) for t in (y, x.grad))
            results[shape, of_x, of_dy, other] = (y, x.grad, layer.weight.grad, kept)
    return results


@scenario
def mean_of_many_channels(rank: int, _: int) -> Any:
    means = []
    for shape in ((1, 96, 20, 20), (1, 96, 8, 7, 6)):
        for memory_format in FORMATS[len(shape)]:
            layer = SyncBatchNorm(96, momentum=1.0)
            layer(numbers(rank, *shape).float().contiguous(memory_format=memory_format))
            means.append(layer.running_mean)
    return means
