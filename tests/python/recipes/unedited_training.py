"""Train with Lightning's own switch, without a line of syncnorm.

Usage: unedited_training.py FILE. Rank 0 saves the kinds of layers and the state.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import lightning.pytorch as pl
import problems
import torch


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = problems.network()
        self.seen: set[str] = set()

    def training_step(self, batch: Any) -> torch.Tensor:
        layers = (self.model[1], self.model[5])
        self.seen |= {f"{type(layer).__module__}.{type(layer).__name__}" for layer in layers}
        x, target = batch
        return problems.loss_of(self.model(x), target)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return problems.optimizer_of(self.model)


def main(file: str) -> None:
    model = Module()
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        sync_batchnorm=True,
        max_epochs=problems.EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, problems.loader(rank, 2))
    if trainer.is_global_zero:
        torch.save({"seen": sorted(model.seen), "state": model.model.state_dict()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
