"""tools/nccl_library: an NCCL in parts, and what is said of parts that are missing or not whole."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[3] / "tools" / "nccl_library"
CONTENT = bytes(range(256)) * 10_000  # 2.4 MiB


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(name="parts")
def library_in_parts(tmp_path: Path) -> Path:
    library = tmp_path / "libnccl.so.2"
    library.write_bytes(CONTENT)
    done = run("--split", "--size", "1", library, tmp_path / "parts")
    names = [f"libnccl.so.2.part0{number}" for number in range(3)]
    assert [Path(line).name for line in done.stdout.splitlines()] == names
    library.unlink()
    return tmp_path / "parts"


def test_parts_are_put_together(parts, tmp_path):
    done = run(parts, tmp_path / "whole")
    assert done.stdout.strip() == str(tmp_path / "whole/libnccl.so.2")
    assert (tmp_path / "whole/libnccl.so.2").read_bytes() == CONTENT


def test_a_part_that_is_missing_is_named(parts, tmp_path):
    (parts / "libnccl.so.2.part01").unlink()
    done = run(parts, tmp_path / "whole")
    assert done.returncode == 1
    assert "libnccl.so.2.part01 is missing; expected 3 parts" in done.stderr


def test_a_part_that_changed_on_the_way_is_refused(parts, tmp_path):
    (parts / "libnccl.so.2.part02").write_bytes(b"half of it")
    assert "part02: is not what it was when it was split" in run(parts, tmp_path / "whole").stderr


def test_a_library_a_wheel_and_a_folder_will_do(tmp_path):
    folder = tmp_path / "carried"
    folder.mkdir()
    with zipfile.ZipFile(folder / "nccl.whl", "w") as archive:
        archive.writestr("nvidia/nccl/lib/libnccl.so.2", CONTENT)
    for place in (folder, folder / "nccl.whl"):
        (found,) = run(place, tmp_path / "unpacked").stdout.splitlines()
        assert Path(found).read_bytes() == CONTENT
    assert run(found, tmp_path).stdout.strip() == found
    assert "expected a libnccl.so.2, a wheel, or a folder" in run(tmp_path / "no", tmp_path).stderr
