"""NVIDIA Apex installs an extension module called syncbn: our package must not answer to it.

The stand-in has the structure of apex.parallel: it takes its own layer in Python where there is no
extension.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYER = """
from torch.nn.modules.batchnorm import _BatchNorm

class SyncBatchNorm(_BatchNorm):
    process_group = None

    def _check_input_dim(self, input):
        pass
"""
STAND_IN = {
    "apex/__init__.py": '"""Stand-in for NVIDIA Apex in the tests of syncnorm."""\n',
    "apex/parallel/__init__.py": """
try:
    import syncbn
except ImportError as missing:
    from .sync_batchnorm import SyncBatchNorm
    SyncBatchNorm.syncbn_import_error = missing
else:
    from .optimized_sync_batchnorm import SyncBatchNorm
""",
    "apex/parallel/sync_batchnorm.py": LAYER,
    "apex/parallel/optimized_sync_batchnorm.py": "from syncbn import welford_mean_var\n" + LAYER,
}
PROGRAM = """
import importlib.util
import sys
import syncnorm.torch
from apex.parallel import SyncBatchNorm
layer = syncnorm.torch.convert_sync_batchnorm(SyncBatchNorm(3))
assert type(layer) is syncnorm.torch.SyncBatchNorm
print(SyncBatchNorm.__module__, repr(getattr(SyncBatchNorm, "syncbn_import_error", None)))
print("syncbn" in sys.modules, importlib.util.find_spec("syncbn") is not None)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path) -> list[str]:
    path = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_the_extension_apex_uses_its_layer_in_python(folder: Path) -> None:
    assert run(folder) == [
        """apex.parallel.sync_batchnorm ModuleNotFoundError("No module named 'syncbn'")""",
        "False False",
    ]


def test_with_the_extension_apex_uses_its_kernels(folder: Path) -> None:
    (folder / "syncbn.py").write_text("def welford_mean_var(x): ...\n")
    assert run(folder) == ["apex.parallel.optimized_sync_batchnorm None", "True True"]
