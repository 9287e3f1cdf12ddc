"""Stand-ins for MinkowskiEngine, torchsparse, spconv and mmcv.ops, written for these tests.

Their layers have the documented interface, the class hierarchy and the qualified names of those of
MinkowskiEngine 0.5, torchsparse 1.4 to 2.1, spconv 1 and 2, and mmcv 2; tensors only the attributes
that a normalization uses. These packages cannot be built here.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from stand_ins import named
from torch import Tensor, nn


class MinkowskiTensor:
    def __init__(self, features: Tensor, coordinate_map_key: Any = None) -> None:
        self.F = features
        self.coordinate_map_key = coordinate_map_key


@named("MinkowskiNormalization", "MinkowskiBatchNorm")
class MinkowskiBatchNorm(nn.Module):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(num_features)

    def forward(self, input: MinkowskiTensor) -> MinkowskiTensor:
        return MinkowskiTensor(self.bn(input.F), input.coordinate_map_key)


@named("MinkowskiNormalization", "MinkowskiSyncBatchNorm")
class MinkowskiSyncBatchNorm(MinkowskiBatchNorm):
    def __init__(self, num_features: int) -> None:
        nn.Module.__init__(self)
        self.bn = nn.SyncBatchNorm(num_features)


class TorchsparseTensor:
    def __init__(self, coords: Tensor, feats: Tensor) -> None:
        self.coords, self.feats = coords, feats
        self.cmaps: dict[Any, Any] = {}


def fapply(input: TorchsparseTensor, fn: Any) -> TorchsparseTensor:
    output = TorchsparseTensor(input.coords, fn(input.feats))
    output.cmaps = input.cmaps
    return output


@named("torchsparse.nn.modules.norm", "BatchNorm")
class TorchsparseBatchNorm(nn.BatchNorm1d):
    def forward(self, input: TorchsparseTensor) -> TorchsparseTensor:
        return fapply(input, super().forward)


class SpconvTensor:
    def __init__(self, features: Tensor, indices: Tensor) -> None:
        self.features, self.indices = features, indices

    def replace_feature(self, features: Tensor) -> SpconvTensor:
        return SpconvTensor(features, self.indices)


class MmcvTensor:
    """As in mmcv.ops and spconv 1: without replace_feature."""

    def __init__(self, features: Tensor, indices: Tensor) -> None:
        self.features, self.indices = features, indices


@named("spconv.pytorch.modules", "SparseModule")
class SparseModule(nn.Module):
    pass


@named("spconv.pytorch.modules", "SparseBatchNorm")
class SparseBatchNorm(nn.BatchNorm1d):
    def forward(self, input: Any) -> Any:
        if isinstance(input, SpconvTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


@named("spconv.pytorch.modules", "SparseSyncBatchNorm")
class SparseSyncBatchNorm(nn.SyncBatchNorm):
    def forward(self, input: Any) -> Any:
        if isinstance(input, SpconvTensor):
            return input.replace_feature(super().forward(input.features))
        return super().forward(input)


@named("spconv.pytorch.modules", "SparseSequential")
class SparseSequential(SparseModule):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(str(index), module)

    def forward(self, input: Any) -> Any:
        for module in self.children():
            if isinstance(module, SparseModule | SparseBatchNorm):
                input = module(input)
            elif isinstance(input, SpconvTensor):
                if input.indices.shape[0] != 0:
                    input = input.replace_feature(module(input.features))
            else:
                input = module(input)
        return input


@named("mmcv.ops.sparse_modules", "SparseModule")
class MmcvSparseModule(nn.Module):
    pass


@named("mmcv.ops.sparse_modules", "SparseSequential")
class MmcvSparseSequential(MmcvSparseModule):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(str(index), module)

    def forward(self, input: Any) -> Any:
        for module in self.children():
            if isinstance(module, MmcvSparseModule):
                input = module(input)
            elif isinstance(input, MmcvTensor):
                if input.indices.shape[0] != 0:
                    input.features = module(input.features)
            else:
                input = module(input)
        return input


def modules() -> dict[str, ModuleType]:
    """Return modules with the stand-ins, by their names, for sys.modules."""
    found: dict[str, ModuleType] = {}
    for kind in (
        TorchsparseBatchNorm,
        SparseModule,
        SparseBatchNorm,
        SparseSyncBatchNorm,
        SparseSequential,
        MmcvSparseModule,
        MmcvSparseSequential,
    ):
        parts = kind.__module__.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            found.setdefault(name, ModuleType(name))
        setattr(found[kind.__module__], kind.__name__, kind)
    return found


def points(count: int, channels: int = 4) -> tuple[Tensor, Tensor]:
    """Return features and indices of as many points."""
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(count, channels, generator=generator)
    return features, torch.zeros(count, 4, dtype=torch.int32)
