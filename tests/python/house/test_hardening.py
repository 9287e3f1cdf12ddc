"""The libraries that are shipped: bound when they are loaded, guarded stacks, checked copies."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from support.cmake_project import run
from syncnorm import _core

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF files")


def loaded(name: str) -> Path:
    """The file of this name that the process has mapped."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    (path,) = {line.split()[-1] for line in maps.splitlines() if f"/{name}" in line}
    return Path(path)


LIBRARIES = {"libsyncnorm": loaded("libsyncnorm.so"), "_core": Path(_core.__file__)}


@pytest.mark.parametrize("name", LIBRARIES)
def test_relocations_are_read_only_and_bound_at_once(name: str) -> None:
    library = LIBRARIES[name]
    assert "GNU_RELRO" in run("readelf", "--wide", "--segments", library)
    assert re.search(r"\(FLAGS_1\).*\bNOW\b", run("readelf", "--wide", "--dynamic", library))


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_stack_is_not_executable(name: str) -> None:
    segments = run("readelf", "--wide", "--segments", LIBRARIES[name])
    (stack,) = [line for line in segments.splitlines() if "GNU_STACK" in line]
    assert " RWE " not in stack


@pytest.mark.parametrize("name", LIBRARIES)
def test_stacks_are_guarded(name: str) -> None:
    assert "__stack_chk_fail" in run("readelf", "--wide", "--dyn-syms", LIBRARIES[name])


def core_commands(build: Path, *options: str) -> list[str]:
    """How each source of the core is compiled, without building it. Kernels are left fast."""
    off = ("-DSYNCNORM_BUILD_TESTS=OFF", "-DSYNCNORM_CUDA=OFF")
    run("cmake", "-S", ROOT, "-B", build, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *off, *options)
    entries = json.loads((build / "compile_commands.json").read_text(encoding="utf-8"))
    core = [entry for entry in entries if "/core/src/" in entry["file"]]
    commands = [entry["command"] for entry in core if "/kernels" not in entry["file"]]
    assert len(commands) > 10
    return commands


def test_copies_are_checked_in_optimized_builds(tmp_path: Path) -> None:
    """No symbol shows it where the compiler can prove that every copy fits."""
    for command in core_commands(tmp_path / "release"):
        assert re.search(r"-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=[23]", command), command
        assert "-fstack-protector-strong" in command, command
    sanitized = core_commands(tmp_path / "sanitized", "-DSYNCNORM_SANITIZE=address,undefined")
    unoptimized = core_commands(tmp_path / "debug", "-DCMAKE_BUILD_TYPE=Debug")
    for command in sanitized + unoptimized:
        assert "FORTIFY" not in command, command
