"""Run the recipe for Ray Train on two workers; rank 0 saves the state.

Usage: ray_training.py FILE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train_loop_per_worker(config: dict[str, Any]) -> None:
    import problems
    import torch
    from page import recipe

    names: dict[str, Any] = {"model": problems.network()}
    exec(recipe("Ray Train"), names)
    context = train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    model = names["model"]
    problems.train(model, problems.optimizer_of(model), problems.loader(rank, size))
    if rank == 0:
        torch.save((size, problems.plain(model.state_dict())), config["file"])


def main(file: str) -> None:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"file": str(Path(file).resolve())},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2, use_gpu=False),
        run_config=RunConfig(storage_path=str(Path.cwd())),
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
