"""A trainer of nnU-Net without a prepared data set, on the CPU."""

from __future__ import annotations

from typing import Any
from unittest import mock

import problems
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def initialized(kind: type[Any]) -> Any:
    """Return a trainer of this kind after its own initialize(), as on several GPUs.

    What reads plans, data and GPUs is replaced; the conversion and the wrapping are nnU-Net's.
    """

    class Trainer(kind):
        def __init__(self) -> None:
            self.was_initialized = False
            self.is_ddp = True
            self.local_rank = 0
            self.device = torch.device("cpu")
            self.preprocessed_dataset_folder = self.dataset_json = self.plans_manager = None
            self.enable_deep_supervision = False
            self.configuration_manager = mock.MagicMock(batch_size=problems.BATCH)
            self.label_manager = mock.MagicMock()
            self.logger = mock.MagicMock()
            self.initial_lr = self.weight_decay = self.oversample_foreground_percent = 0.0
            self.probabilistic_oversampling = False
            self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
            self.num_epochs = 1

        def _set_batch_size_and_oversample(self) -> None:
            pass

        def _do_i_compile(self) -> bool:
            return False

        def _build_loss(self) -> Any:
            return problems.loss_of

        @staticmethod
        def build_network_architecture(plans_manager: Any, *more: Any) -> nn.Module:
            return problems.network()

        def configure_optimizers(self) -> Any:
            return problems.optimizer_of(self.network), None

    trainer = Trainer()
    replaced = {
        "DDP": lambda network, **_: DistributedDataParallel(network),
        "determine_num_input_channels": lambda *_: 3,
        "infer_dataset_class": lambda _: None,
    }
    with mock.patch.multiple("nnunetv2.training.nnUNetTrainer.nnUNetTrainer", **replaced):
        trainer.initialize()
    return trainer
