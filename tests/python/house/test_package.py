"""What an installed package holds, and that a C and a C++ project can build on it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import syncnorm
from support.cmake_project import PACKAGE, run

ROOT = Path(__file__).resolve().parents[3]
CONSUMER = Path(__file__).parent / "consumer"
LIBRARY = PACKAGE / "lib" / ("libsyncnorm.dylib" if sys.platform == "darwin" else "libsyncnorm.so")
CMAKE_PACKAGE = PACKAGE / "lib" / "cmake" / "syncnorm"


def version_of_header() -> str:
    text = (ROOT / "core/include/syncnorm/version.h").read_text(encoding="utf-8")
    return ".".join(re.findall(r"#define SYNCNORM_VERSION_\w+ (\d+)", text))


def test_one_version_everywhere():
    expected = version_of_header()
    assert re.fullmatch(r"\d+\.\d+\.\d+", expected)
    assert syncnorm.__version__ == expected
    assert metadata.version("syncnorm") == expected
    config = (CMAKE_PACKAGE / "syncnormConfigVersion.cmake").read_text(encoding="utf-8")
    assert f'set(PACKAGE_VERSION "{expected}")' in config


def test_the_package_is_complete():
    headers = {path.name for path in (ROOT / "core/include/syncnorm").iterdir()}
    assert headers >= {"syncnorm.h", "syncnorm.hpp", "version.h"}
    assert {path.name for path in (PACKAGE / "include/syncnorm").iterdir()} == headers
    assert LIBRARY.is_file()
    assert not LIBRARY.is_symlink()
    assert (CMAKE_PACKAGE / "syncnormConfig.cmake").is_file()
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


def test_the_package_holds_no_sources_of_the_build():
    left = [path for path in PACKAGE.rglob("*") if path.suffix in {".cpp", ".inl", ".o", ".txt"}]
    assert left == []


def test_the_package_asks_for_nothing():
    required = metadata.requires("syncnorm") or []
    assert [line for line in required if "extra ==" not in line] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF symbols")
def test_only_the_c_abi_is_exported():
    lines = run("nm", "--dynamic", "--defined-only", LIBRARY).splitlines()
    exported = {line.split()[-1].partition("@")[0] for line in lines}
    header = (ROOT / "core/include/syncnorm/syncnorm.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^SYNCNORM_API [^;(]*?\b(syncnorm_\w+)\(", header, re.MULTILINE))
    assert len(declared) > 15
    assert exported == declared


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF headers")
def test_the_library_loads_without_a_driver_or_a_toolkit():
    needed = re.findall(r"NEEDED.*\[(.+?)\.so", run("readelf", "--dynamic", LIBRARY))
    system = r"ld-linux.*|lib(c|dl|gcc_s|m|pthread|rt|stdc\+\+)"
    assert "libc" in needed
    assert [name for name in needed if not re.fullmatch(system, name)] == []


@pytest.fixture(params=["syncnorm_DIR", "CMAKE_PREFIX_PATH"])
def found_by(request):
    """Both ways in which a project can be told where the package is."""
    return f"-D{request.param}={CMAKE_PACKAGE if request.param == 'syncnorm_DIR' else PACKAGE}"


def test_a_c_project_builds_on_the_package(tmp_path, found_by):
    run("cmake", "-S", CONSUMER, "-B", tmp_path, found_by)
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "consumer_c").strip() == syncnorm.__version__


def test_a_cpp_project_builds_on_the_package(tmp_path, found_by):
    run("cmake", "-S", CONSUMER, "-B", tmp_path, found_by, "-DWITH_CXX=ON")
    run("cmake", "--build", tmp_path, "--target", "consumer_cpp")
    assert run(tmp_path / "consumer_cpp").strip() == syncnorm.__version__


def test_a_copied_package_still_works(tmp_path):
    """No path of the machine that built it is baked in."""
    shutil.copytree(PACKAGE / "lib", tmp_path / "moved" / "lib")
    shutil.copytree(PACKAGE / "include", tmp_path / "moved" / "include")
    build = tmp_path / "build"
    run("cmake", "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={tmp_path / 'moved'}")
    run("cmake", "--build", build)
    assert run(build / "consumer_c").strip() == syncnorm.__version__


def test_another_minor_version_is_refused(tmp_path):
    major, minor, _ = syncnorm.__version__.split(".")
    done = subprocess.run(
        [
            *("cmake", "-S", CONSUMER, "-B", tmp_path, f"-Dsyncnorm_DIR={CMAKE_PACKAGE}"),
            f"-DWANTED_VERSION={major}.{int(minor) + 1}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "requested version" in done.stderr
