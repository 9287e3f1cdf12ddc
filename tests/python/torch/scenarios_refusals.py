"""What the ranks of test_refusals_in_groups.py's worlds do: rank 1 makes wrong calls in between."""

from __future__ import annotations

from typing import Any

import torch
from refused_arguments import CASES, accepted, refused
from torch import Tensor
from worlds import Scenario

from support.scenarios import scenario_of
from syncnorm import InvalidArgumentError
from syncnorm.torch import SyncBatchNorm, sync_batch_norm

SCENARIOS: dict[str, Scenario] = {}
scenario = scenario_of(SCENARIOS)

WRITTEN = ("input", "running_mean", "running_var", "num_batches_tracked", "residual")
LEAVES = ("input", "weight", "bias", "residual")


def step(function: Any, arguments: dict[str, Any]) -> list[Tensor]:
    """Return y, the gradients and the running statistics of one step."""
    y = function(**arguments)
    leaves = [arguments[name] for name in LEAVES]
    gradients = torch.autograd.grad((y * y).sum(), leaves)
    return [y.detach(), *gradients, *(arguments[name].detach().clone() for name in WRITTEN)]


def steps(rank: int, function: Any, dtype: torch.dtype, **options: Any) -> tuple[Any, ...]:
    """Return what is wrong, and the steps with and without refused calls of rank 1 between."""
    undisturbed, disturbed = accepted(rank, dtype, **options), accepted(rank, dtype, **options)
    wrong: list[str] = []
    for name, kind in CASES:
        expected = step(function, undisturbed)
        if rank == 1:
            before = [disturbed[each].detach().clone() for each in WRITTEN]
            try:
                function(**refused(disturbed, name, kind))
                wrong.append(f"{name} {kind}: accepted")
            except InvalidArgumentError as error:
                if name not in str(error) and name not in ("input", "running_mean", "running_var"):
                    wrong.append(f"{name} {kind}: not named in {error}")
            except Exception as error:  # noqa: BLE001 - reported to the test, whatever it is
                wrong.append(f"{name} {kind}: {type(error).__name__}: {error}")
            after = [disturbed[each].detach() for each in WRITTEN]
            if not all(map(torch.equal, before, after)):
                wrong.append(f"{name} {kind}: something was written")
        found = step(function, disturbed)
        if not all(map(torch.equal, found, expected)):
            wrong.append(f"{name} {kind}: the next step differs")
    return (wrong,)


@scenario
def eager(rank: int, _: int) -> Any:
    return steps(rank, sync_batch_norm, torch.float32)


@scenario
def eager_with_centering(rank: int, _: int) -> Any:
    return steps(rank, sync_batch_norm, torch.float64)


@scenario
def backward(rank: int, _: int) -> Any:
    """A parameter of another size or dtype in backward, and afterwards the right one again."""
    wrong = []
    for name in ("weight", "bias"):
        for kind in ("longer", "dtype"):
            layer = SyncBatchNorm(4)
            x = accepted(rank)["input"]
            loss = (layer(x) ** 2).sum()
            (expected,) = torch.autograd.grad(loss, x, retain_graph=True)
            if rank == 1:
                parameter = getattr(layer, name)
                good = parameter.data
                parameter.data = refused({name: good}, name, kind)[name]
                try:
                    torch.autograd.grad(loss, x, retain_graph=True)
                    wrong.append(f"{name} {kind}: accepted")
                except InvalidArgumentError:
                    pass
                parameter.data = good
            (found,) = torch.autograd.grad(loss, x)
            if not torch.equal(found, expected):
                wrong.append(f"{name} {kind}: the next backward pass differs")
    return (wrong,)
