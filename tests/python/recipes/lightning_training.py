"""Run the recipe for Lightning, whose launcher starts this script once more for the second device.

Usage: lightning_training.py PACKAGE FILE. Rank 0 saves the kinds of layers and the state.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import problems
import torch
from page import recipe
from torch import nn

import syncnorm.torch


def main(package: str, file: str) -> None:
    pl = importlib.import_module(package)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = problems.network()
            self.own = syncnorm.torch.SyncBatchNorm2d(3)  # not one of those to revert
            self.own.requires_grad_(False)
            self.seen: set[type[nn.Module]] = set()

        def training_step(self, batch: Any) -> torch.Tensor:
            self.seen |= {type(layer) for layer in self.model if "Norm" in type(layer).__name__}
            x, target = batch
            return problems.loss_of(self.model(x), target)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return problems.optimizer_of(self.model)

    model = Module()
    rank = int(os.environ.get("LOCAL_RANK", "0"))  # not yet set in the first process
    code = recipe("Lightning").replace("import lightning as L", f"import {package} as L")
    names: dict[str, Any] = {"model": model, "loader": problems.loader(rank, 2)}
    exec(code, names)
    result = {
        "world": names["trainer"].world_size,
        "seen": sorted(kind.__qualname__ for kind in model.seen),
        "after": [type(layer).__qualname__ for layer in model.modules()],
        "state": model.model.state_dict(),
    }
    if names["trainer"].is_global_zero:
        torch.save(result, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
