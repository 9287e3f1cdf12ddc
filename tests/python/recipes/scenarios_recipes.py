"""The recipes of docs/recipes.md on ranks; each returns the state after the training."""

from __future__ import annotations

import copy
import os
import warnings
from types import SimpleNamespace
from typing import Any

import problems
import torch
from page import recipe
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import syncnorm.torch

warnings.simplefilter("default")  # the tools have warnings of their own

# What a launcher sets, for tools that read it; the process group exists already.
RANK_VARIABLES = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29571",
    "ACCELERATE_USE_CPU": "true",  # of `accelerate launch --cpu`
}


def prepare(rank: int, size: int) -> dict[str, Any]:
    """Set the variables of a launcher and return the names that a block may use."""
    os.environ.update(RANK_VARIABLES, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    model = problems.network()
    optimizer = problems.optimizer_of(model)
    return {"model": model, "optimizer": optimizer, "loader": problems.loader(rank, size)}


def trained(model: nn.Module, rank: int, size: int) -> dict[str, Tensor]:
    """Return the state after training by plain DistributedDataParallel."""
    wrapped = DistributedDataParallel(model)
    problems.train(wrapped, problems.optimizer_of(model), problems.loader(rank, size))
    return model.state_dict()


def accelerate(rank: int, size: int) -> dict[str, Tensor]:
    names = prepare(rank, size)
    names["loader"] = problems.loader(rank, size, shards=False)
    exec(recipe("Accelerate"), names)
    accelerator = names["accelerator"]
    assert accelerator.num_processes == size
    problems.train(names["model"], names["optimizer"], names["loader"], accelerator.backward)
    return accelerator.unwrap_model(names["model"]).state_dict()


def timm(rank: int, size: int) -> dict[str, Tensor]:
    names = prepare(rank, size)
    names["model"] = problems.timm_network()
    try:
        exec(recipe("timm"), names)
        model = names["model"]
        kinds = {type(layer).__name__ for layer in model.modules() if hasattr(layer, "momentum")}
        assert kinds == {"SyncBatchNormAct", "SyncBatchNorm"}
        assert all(
            isinstance(layer, syncnorm.torch.SyncBatchNorm)
            for layer in model.modules()
            if hasattr(layer, "momentum")
        )
        return trained(model, rank, size)
    finally:
        syncnorm.torch.uninstall()


def timm_in_place(rank: int, size: int) -> dict[str, Tensor]:
    prepare(rank, size)
    model = syncnorm.torch.convert_sync_batchnorm(problems.timm_network())
    assert isinstance(model[1], syncnorm.torch.SyncBatchNormAct2d)
    return trained(model, rank, size)


def mmengine(rank: int, size: int) -> dict[str, Tensor]:
    import mmengine_training

    names = prepare(rank, size) | {"cfg": mmengine_training.config(size)}
    try:
        exec(recipe("MMEngine"), names)
        runner = names["runner"]
        assert runner.distributed
        runner.train()
        layers = [each for each in runner.model.modules() if hasattr(each, "momentum")]
        assert {type(each) for each in layers} == {syncnorm.torch.SyncBatchNorm}
        return problems.plain(runner.model.state_dict())
    finally:
        syncnorm.torch.uninstall()


def norm_cfg(rank: int, size: int) -> dict[str, Tensor]:
    names = prepare(rank, size)
    exec(recipe("MMEngine", 1), names)
    assert (names["name"], type(names["layer"])) == ("bn", syncnorm.torch.SyncBatchNorm)
    assert names["layer"].eps == 1e-3
    model = names["model"]
    for position in (1, 5):
        channels = model[position].num_features
        model[position] = names["build_norm_layer"]({"type": "SyncBN"}, channels)[1]
    return trained(model, rank, size)


def precise_bn(rank: int, size: int) -> dict[str, Tensor]:
    names = prepare(rank, size)
    names["inputs"] = (x for x, _ in names["loader"])
    exec(recipe("detectron2 and fvcore"), names)
    return names["model"].state_dict()


def detectron2(rank: int, size: int) -> dict[str, Tensor]:
    from detectron2.layers import get_norm

    prepare(rank, size)
    model = problems.network()
    with syncnorm.torch.install():
        model[1] = get_norm("SyncBN", 4)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return trained(model, rank, size)


def ultralytics(rank: int, size: int) -> dict[str, Tensor]:
    """The callbacks on a trainer whose model is wrapped and whose average exists."""
    callbacks: dict[str, Any] = {}
    names = prepare(rank, size) | {"settings": {}}
    names["model"] = SimpleNamespace(add_callback=callbacks.__setitem__, train=lambda: None)
    exec(recipe("Ultralytics"), names)
    model = problems.network()
    wrapped = DistributedDataParallel(model)
    trainer = SimpleNamespace(model=wrapped, ema=SimpleNamespace(ema=copy.deepcopy(model)))
    callbacks["on_pretrain_routine_end"](trainer)
    assert type(trainer.ema.ema[1]) is nn.BatchNorm2d
    problems.train(wrapped, problems.optimizer_of(model), problems.loader(rank, size))
    trainer.ema.ema = copy.deepcopy(model)
    callbacks["on_train_epoch_end"](trainer)
    assert type(trainer.ema.ema[1]) is nn.BatchNorm2d
    return trainer.ema.ema.state_dict()


def nnunet(rank: int, size: int) -> dict[str, Tensor]:
    import nnunet_training

    names = prepare(rank, size) | {"__name__": "trainers"}
    try:
        exec(recipe("nnU-Net"), names)
        trainer = nnunet_training.initialized(names["nnUNetTrainerSyncBN"])
        problems.train(trainer.network, trainer.optimizer, names["loader"])
        return trainer.network.module.state_dict()
    finally:
        syncnorm.torch.uninstall()


def monai(rank: int, size: int) -> dict[str, Tensor]:
    names = prepare(rank, size)
    torch.manual_seed(3)
    try:
        exec(recipe("MONAI"), names)
    finally:
        syncnorm.torch.uninstall()
    model = names["model"]
    assert any(type(layer) is syncnorm.torch.SyncBatchNorm for layer in model.modules())
    return problems.plain(trained(problems.Pooled(model), rank, size))


def deepspeed(rank: int, size: int) -> dict[str, Tensor]:
    import deepspeed.ops

    names = prepare(rank, size)
    # Its own all-reduce in shared memory would be compiled now; without it there is gloo.
    deepspeed.ops.__compatible_ops__ = {}
    batch = problems.BATCH
    names["config"] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // size,
        "gradient_clipping": 0.0,  # 1.0 by default
    }
    exec(recipe("DeepSpeed"), names)
    engine = names["engine"]
    step = SimpleNamespace(zero_grad=lambda: None, step=engine.step)
    problems.train(engine, step, names["loader"], engine.backward)
    return engine.module.state_dict()


def swa(rank: int, size: int) -> dict[str, Tensor]:
    names = prepare(rank, size)
    exec(recipe("Stochastic weight averaging"), names)
    return names["averaged"].module.state_dict()


SCENARIOS = {
    run.__name__: run
    for run in (
        accelerate,
        timm,
        timm_in_place,
        mmengine,
        norm_cfg,
        precise_bn,
        detectron2,
        ultralytics,
        nnunet,
        monai,
        deepspeed,
        swa,
    )
}
