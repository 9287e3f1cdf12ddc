"""A model, a data set and a configuration for MMEngine's Runner."""

from __future__ import annotations

import tempfile
from typing import Any

import problems
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import DATASETS, MODEL_WRAPPERS, MODELS
from torch import Tensor
from torch.utils.data import Dataset


@MODELS.register_module()
class RecipeModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.model = problems.network()

    def forward(self, x: Tensor, target: Tensor, mode: str) -> dict[str, Tensor]:  # noqa: ARG002
        return {"loss": problems.loss_of(self.model(x), target)}


@DATASETS.register_module()
class RecipeDataset(Dataset[Any]):
    def __init__(self) -> None:
        self.samples = problems.dataset()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


@MODEL_WRAPPERS.register_module()
class ParallelOnCPU(MMDistributedDataParallel):
    """MMEngine's wrapper, without the GPUs that Runner names."""

    def __init__(self, module: Any, device_ids: Any = None) -> None:  # noqa: ARG002
        super().__init__(module)


def config(size: int) -> Config:
    """Return the configuration of one rank."""
    loader = {
        "dataset": {"type": "RecipeDataset"},
        "batch_size": problems.BATCH // size,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "collate_fn": {"type": "default_collate"},
    }
    return Config(
        {
            "model": {"type": "RecipeModel"},
            "model_wrapper_cfg": {"type": "ParallelOnCPU"},
            "train_dataloader": loader,
            "train_cfg": {"by_epoch": True, "max_epochs": problems.EPOCHS},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.05, "momentum": 0.9}},
            "launcher": "pytorch",
            "work_dir": tempfile.mkdtemp(),
        }
    )
