"""The arrows between the layers point down; each rule is shown to catch a planted violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from house import layers

ROOT = Path(__file__).resolve().parents[3]


def plant(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "violations",
    [
        layers.include_violations,
        layers.include_cycles,
        layers.import_violations,
        layers.import_cycles,
        layers.chain_violations,
        layers.size_violations,
    ],
    ids=lambda rule: rule.__name__,
)
def test_the_project_keeps(violations):
    found = violations(ROOT)
    assert not found, "\n".join(["", *found])


def test_the_rules_see_the_project():
    names = [name for name, _ in layers.files(ROOT, {*layers.CXX_SUFFIXES, ".py"})]
    assert "core/include/syncnorm/syncnorm.h" in names
    assert "python/syncnorm/__init__.py" in names
    assert any(target for _, _, target in layers._includes(ROOT))


@pytest.mark.parametrize(
    ("name", "text", "target"),
    [
        ("core/src/math/wire.hpp", '#include "ops/forward.hpp"', "core/src/ops/forward.hpp"),
        ("core/src/plan/a.cpp", '#include "comm/port.hpp"', "core/src/comm/port.hpp"),
        ("core/src/comm/a.cpp", '# include "backend/b.hpp"', "core/src/backend/b.hpp"),
        ("core/src/ops/a.cpp", '#include "api/guard.hpp"', "core/src/api/guard.hpp"),
        ("core/src/ops/a.cpp", '#include "backend/cpu/k.hpp"', "core/src/backend/cpu/k.hpp"),
        (
            "core/src/ops/a.cpp",
            "#include <syncnorm/syncnorm.hpp>",
            "core/include/syncnorm/syncnorm.hpp",
        ),
        ("core/src/backend/cpu/a.cpp", '#include "../cuda/b.hpp"', "core/src/backend/cuda/b.hpp"),
        ("bindings/a.cpp", '#include "ops/forward.hpp"', "core/src/ops/forward.hpp"),
        ("examples/a.cpp", '#include "support/error.hpp"', "core/src/support/error.hpp"),
        ("tests/cpp/test_abi_a.cpp", '#include "plan/p.hpp"', "core/src/plan/p.hpp"),
        ("tests/simt/a.cpp", '#include "plan/p.hpp"', "core/src/plan/p.hpp"),
        ("core/src/ops/a.cpp", '#include "simt.hpp"', "tests/simt/simt.hpp"),
        ("core/include/syncnorm/syncnorm.h", '#include "x.hpp"', "core/src/support/x.hpp"),
        ("core/include/syncnorm/syncnorm.h", "#include <cuda_runtime.h>", None),
        ("core/include/syncnorm/syncnorm.hpp", "#include <mpi.h>", None),
        ("core/src/support/a.hpp", "#include <Python.h>", None),
        ("core/src/ops/a.cpp", "#include <nccl.h>", None),
        ("core/src/elsewhere/a.cpp", "#include <vector>", None),
    ],
)
def test_a_forbidden_include_is_found(tmp_path, name, text, target):
    if target:
        plant(tmp_path, target, "")
    plant(tmp_path, name, text + "\n")
    (found,) = layers.include_violations(tmp_path)
    assert found.startswith(f"{name}: ")


def test_a_permitted_include_is_not_reported(tmp_path):
    plant(tmp_path, "core/src/math/wire.hpp", "#pragma once\n#include <cmath>\n")
    plant(tmp_path, "core/src/ops/a.cpp", '#include "math/wire.hpp"\n#include <stdint.h>\n')
    plant(tmp_path, "core/include/syncnorm/mpi.hpp", "#include <mpi.h>\n")
    assert layers.include_violations(tmp_path) == []


def test_a_cycle_of_includes_is_found(tmp_path):
    plant(tmp_path, "core/src/math/a.hpp", '#include "math/b.hpp"\n')
    plant(tmp_path, "core/src/math/b.hpp", '#include "math/a.hpp"\n')
    (found,) = layers.include_cycles(tmp_path)
    assert found.count("math/a.hpp") == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("__init__.py", "import torch"),
        ("__init__.py", "def late():\n    import numpy as np"),
        ("comm.py", "from torch import distributed"),
        ("comm/mpi.py", "from syncnorm.torch import host_communicator"),
        ("comm/mpi.py", "from syncnorm.launcher import from_env"),
        ("torch/module.py", "import cupy"),
        ("numpy/arrays.py", "import cupy.cuda"),
        ("_cli/info.py", "from syncnorm.torch import SyncBatchNorm"),
        ("torch/module.py", "from ..demo import data"),
        ("__init__.py", "from . import torch"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, name, text):
    plant(tmp_path, f"python/syncnorm/{name}", text + "\n")
    (found,) = layers.import_violations(tmp_path)
    assert found.startswith(f"python/syncnorm/{name}: ")


def test_a_permitted_import_is_not_reported(tmp_path):
    plant(tmp_path, "python/syncnorm/torch/a.py", "import torch\nfrom .. import _core, Options\n")
    plant(tmp_path, "python/syncnorm/__init__.py", "from ._core import Options\n")
    assert layers.import_violations(tmp_path) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from .b import f", "from .a import g"),
        ("from . import b", "from syncnorm.torch import a"),
        ("import syncnorm.torch.b", "def late():\n    from . import a"),
        ("if TYPE_CHECKING:\n    from .b import f", "from syncnorm.torch.a import g"),
    ],
)
def test_a_cycle_of_imports_is_found(tmp_path, first, second):
    plant(tmp_path, "python/syncnorm/torch/__init__.py", "")
    plant(tmp_path, "python/syncnorm/torch/a.py", first + "\n")
    plant(tmp_path, "python/syncnorm/torch/b.py", second + "\n")
    (found,) = layers.import_cycles(tmp_path)
    assert found.count("torch/a.py") == 2
    assert "torch/b.py" in found


def test_a_cycle_through_a_package_is_found(tmp_path):
    plant(tmp_path, "python/syncnorm/__init__.py", "from .a import f\n")
    plant(tmp_path, "python/syncnorm/a.py", "from . import Options, _core\n")
    plant(tmp_path, "python/syncnorm/_core.pyi", "")
    (found,) = layers.import_cycles(tmp_path)
    assert found.count("python/syncnorm/__init__.py") == 2
    assert "_core" not in found
    plant(tmp_path, "python/syncnorm/a.py", "from . import _core\nfrom ._core import Options\n")
    assert layers.import_cycles(tmp_path) == []


def plant_chain(root, length):
    for index in range(length):
        below = f"from ..room{index + 1} import part\n" if index + 1 < length else ""
        plant(root, f"python/syncnorm/torch/room{index}/__init__.py", "from . import part\n")
        plant(root, f"python/syncnorm/torch/room{index}/part.py", below)


def test_a_long_chain_of_imports_is_found(tmp_path):
    plant_chain(tmp_path, layers.CHAIN_LIMIT)
    assert layers.chain_violations(tmp_path) == []
    plant_chain(tmp_path, layers.CHAIN_LIMIT + 1)
    (found,) = layers.chain_violations(tmp_path)
    assert found.startswith("python/syncnorm/torch/room0/part.py -> ")
    assert found.endswith(f"{layers.CHAIN_LIMIT + 1} files, expected at most {layers.CHAIN_LIMIT}")


def test_a_package_that_is_imported_is_part_of_a_chain(tmp_path):
    plant(tmp_path, "python/syncnorm/torch/a.py", "from .room import f\n")
    plant(tmp_path, "python/syncnorm/torch/room/__init__.py", "from .b import f\n")
    plant(tmp_path, "python/syncnorm/torch/room/b.py", "import syncnorm.numpy\n")
    plant(tmp_path, "python/syncnorm/numpy/__init__.py", "")
    assert [Path(name).name for name in layers.longest_chain(tmp_path)] == [
        "a.py",
        "__init__.py",
        "b.py",
    ]


def test_long_lines_are_found_and_long_files_are_not(tmp_path):
    plant(tmp_path, "core/src/ops/long.cpp", "\n" * 1000)
    plant(tmp_path, "core/src/ops/wide.cpp", "x" * (layers.COLUMNS_LIMIT + 1))
    (found,) = layers.size_violations(tmp_path)
    assert found.startswith("core/src/ops/wide.cpp:1: ")


def test_import_syncnorm_imports_no_framework():
    code = (
        "import sys, syncnorm\n"
        f"print([name for name in {sorted(layers.FRAMEWORKS)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
