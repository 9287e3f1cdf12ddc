"""What every rank of test_models.py's world does with a model of somebody else."""

from __future__ import annotations

import functools
from typing import Any

import torch
from real_models import MODELS, SIZES, RealModel, train
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from training_runs import part
from worlds import Scenario

from syncnorm.torch import SyncBatchNorm, convert_sync_batchnorm, revert_sync_batchnorm


def types_of(model: nn.Module) -> dict[str, str]:
    return {name: type(module).__qualname__ for name, module in model.named_modules()}


def train_evaluate_and_revert(real: RealModel, rank: int, size: int) -> dict[str, Any]:
    model = convert_sync_batchnorm(real.new())
    layers = sum(isinstance(module, SyncBatchNorm) for module in model.modules())
    batches = real.batches()
    train(DistributedDataParallel(model), batches, part(SIZES, rank), ranks=size)
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = batches[0][0]
    with torch.no_grad():
        synchronized = model.eval()(x)
        reverted = revert_sync_batchnorm(model)
        alone = reverted(x)
    return {
        "layers": layers,
        "trained": trained,
        "synchronized": synchronized,
        "reverted": alone,
        "reverted types": types_of(reverted),
        "reverted state": reverted.state_dict(),
    }


SCENARIOS: dict[str, Scenario] = {
    name: functools.partial(train_evaluate_and_revert, real) for name, real in MODELS.items()
}
