"""State that was saved while the package was called syncbn: docs/pytorch-models.md loads it."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from syncnorm.comm import thread_group
from syncnorm.torch import (
    LazySyncBatchNorm,
    SyncBatchNorm,
    SyncBatchNormAct,
    convert_sync_batchnorm,
    mmcv,
    paddle,
    revert_sync_batchnorm,
)
from syncnorm.torch.groups.pickling import KeptGroup

ROOT = Path(__file__).resolve().parents[3]

# Where classes were, from the most specific to the least.
FORMER = {
    "syncnorm.torch.layer": "syncbn.torch.module",
    "syncnorm.torch.groups.pickling": "syncbn.torch.kept_groups",
    "syncnorm.": "syncbn.",
}


@pytest.fixture(scope="module")
def old_pickles() -> ModuleType:
    """The module that the document shows."""
    text = (ROOT / "docs/pytorch-models.md").read_text(encoding="utf-8")
    section = text.partition("## Saving a module with a group")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    module = ModuleType("old_pickles")
    exec(compile(code, "docs/pytorch-models.md", "exec"), vars(module))
    return module


def with_former_paths(saved: bytes) -> bytes:
    """Return a pickle of protocol 2, which has class paths as text, with those of syncbn."""
    assert b"syncnorm." in saved
    for now, before in FORMER.items():
        saved = saved.replace(now.encode(), before.encode())
    assert b"syncnorm" not in saved
    return saved


def trained(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 1)
    return layer


def converted() -> nn.Module:
    """Return a layer as the converter made it then, when there was one class."""
    layer = convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(4)), eps_mode="max")[0]
    layer.__class__ = SyncBatchNorm
    return layer


LAYERS = [
    lambda: SyncBatchNorm(4, weighting="equal", name="stem", timeout=3.0),
    lambda: SyncBatchNormAct(4, act=nn.SiLU()),
    lambda: paddle.SyncBatchNorm(4, epsilon=0.1),
    lambda: mmcv.SyncBatchNorm(4, stats_mode="N"),
    converted,
]


@pytest.mark.parametrize("make", LAYERS)
def test_a_module_loads(make: Any, old_pickles: ModuleType) -> None:
    layer = trained(make())
    saved = with_former_paths(pickle.dumps(layer, protocol=2))
    with pytest.raises(ModuleNotFoundError, match="syncbn"):
        pickle.loads(saved)
    loaded = old_pickles.Unpickler(io.BytesIO(saved)).load()
    assert type(loaded) is type(layer)
    assert repr(loaded) == repr(layer)
    torch.testing.assert_close(loaded.state_dict(), layer.state_dict(), rtol=0, atol=0)
    x = torch.randn(3, 4)
    torch.testing.assert_close(loaded(x), layer(x), rtol=0, atol=0)


def test_a_lazy_module_loads(old_pickles: ModuleType) -> None:
    saved = with_former_paths(pickle.dumps(LazySyncBatchNorm(eps=0.5), protocol=2))
    loaded = old_pickles.Unpickler(io.BytesIO(saved)).load()
    assert type(loaded) is LazySyncBatchNorm
    loaded(torch.randn(3, 4))
    assert type(loaded) is SyncBatchNorm
    assert (loaded.eps, loaded.num_features) == (0.5, 4)


def test_a_module_with_a_group_loads(old_pickles: ModuleType) -> None:
    layer = SyncBatchNorm(4)
    layer.process_group = KeptGroup((0, 1), "7", "pair")
    saved = with_former_paths(pickle.dumps([layer, layer.process_group], protocol=2))
    loaded, group = old_pickles.Unpickler(io.BytesIO(saved)).load()
    assert group == layer.process_group == loaded.process_group

    layer.process_group = thread_group(2)[0]
    saved = with_former_paths(pickle.dumps(layer, protocol=2))
    loaded = old_pickles.Unpickler(io.BytesIO(saved)).load()
    with pytest.raises(ValueError, match=r"saved with a syncnorm\.Communicator \(rank 0 of 2\)"):
        loaded(torch.randn(3, 4))


def test_a_file_of_torch_save_loads(old_pickles: ModuleType, tmp_path: Path) -> None:
    model, path = nn.Sequential(nn.Linear(3, 4), converted()), tmp_path / "model.pt"
    # The pickle is stored in the archive as it is, but with a checksum: let torch write it.
    torch.save(trained(model), path, pickle_module=FormerPickle)
    assert b"syncbn.torch.module" in path.read_bytes()
    loaded = torch.load(path, weights_only=False, pickle_module=old_pickles)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    loaded[1].eps_mode = "add"
    assert type(revert_sync_batchnorm(loaded)[1]) is nn.BatchNorm1d


class FormerPickle:
    """A pickle module for torch.save that writes the former paths."""

    class Pickler:
        def __init__(self, file: Any, protocol: int) -> None:
            self._file, self._bytes = file, io.BytesIO()
            self._pickler = pickle.Pickler(self._bytes, protocol=protocol)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pickler, name)

        def dump(self, value: object) -> None:
            if hasattr(self, "persistent_id"):
                self._pickler.persistent_id = self.persistent_id
            self._pickler.dump(value)
            self._file.write(with_former_paths(self._bytes.getvalue()))


def test_a_state_dict_loads_unchanged() -> None:
    state = {
        "0.weight": torch.tensor([1.5, 2.0]),
        "0.bias": torch.tensor([0.25, -1.0]),
        "0.running_mean": torch.tensor([3.0, -4.0]),
        "0.running_var": torch.tensor([2.0, 0.5]),
        "0.num_batches_tracked": torch.tensor(7),
    }
    for layer in (SyncBatchNorm(2), nn.BatchNorm1d(2), convert_sync_batchnorm(nn.BatchNorm1d(2))):
        model = nn.Sequential(layer).eval()
        model.load_state_dict(state, strict=True)
        assert list(model.state_dict()) == list(state)
        y = model(torch.tensor([[5.0, -4.0]]))
        expected = [[1.5 * 2 / (2 + 1e-5) ** 0.5 + 0.25, -1.0]]
        torch.testing.assert_close(y.detach(), torch.tensor(expected))
