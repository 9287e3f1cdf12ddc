"""A checkout as a part of another project, what it installs, and pkg-config and dlopen on that."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import syncnorm
from support.cmake_project import PACKAGE, run

ROOT = Path(__file__).resolve().parents[3]
CONSUMER = Path(__file__).parent / "consumer"
SUFFIX = "dylib" if sys.platform == "darwin" else "so"
STRICT = ("-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-D_POSIX_C_SOURCE=200809L")


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """The consumer's build folder, with the core in it: by FetchContent, in a project of C only."""
    build = tmp_path_factory.mktemp("fetched")
    # A unity build without optimization, to be done in seconds. Many parents build so as well.
    quick = ("-G", "Ninja", "-DSYNCNORM_CUDA=OFF", "-DCMAKE_UNITY_BUILD=ON")
    run("cmake", "-S", CONSUMER, "-B", build, f"-DCHECKOUT={ROOT}", "-DWITH_CXX=ON", *quick)
    run("cmake", "--build", build, "--parallel", "2")
    return build


@pytest.fixture(scope="module")
def prefix(fetched, tmp_path_factory):
    """What `cmake --install` gives, moved away from where it was installed."""
    first = tmp_path_factory.mktemp("installed") / "first"
    run("cmake", "--install", fetched, "--prefix", first)
    return first.rename(first.with_name("moved"))


@pytest.fixture(params=["cmake --install", "wheel"])
def installed(request):
    """Either way to install, which give the same layout."""
    return PACKAGE if request.param == "wheel" else request.getfixturevalue("prefix")


@pytest.mark.parametrize("program", ["consumer_c", "consumer_cpp", "consumer_status"])
def test_a_checkout_is_part_of_another_project(fetched, program):
    assert run(fetched / program) == syncnorm.__version__


def test_an_installed_library_is_found_by_cmake(prefix, tmp_path):
    run("cmake", "-S", CONSUMER, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    assert f"syncnorm_DIR:PATH={prefix}" in (tmp_path / "CMakeCache.txt").read_text(
        encoding="utf-8"
    )
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "consumer_c") == syncnorm.__version__


def test_an_installation_holds_what_a_wheel_holds(prefix):
    def files(folder: Path) -> set[str]:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        return {name for name in found if name.startswith(("include/", "lib/cmake/", "lib/pkg"))}

    assert "lib/pkgconfig/syncnorm.pc" in files(prefix)
    assert {name.replace("noconfig", "release") for name in files(prefix)} == files(PACKAGE)


def test_an_installation_names_no_folder_of_its_build(prefix, fetched):
    texts = [path for path in prefix.rglob("*") if path.suffix in {".cmake", ".pc"}]
    assert len(texts) >= 4
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for folder in (ROOT, fetched, prefix.with_name("first")):
            assert str(folder) not in text, path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of ELF libraries")
def test_the_soname_holds_what_may_not_change(prefix):
    major, minor, _ = syncnorm.__version__.split(".")
    library = prefix / "lib/libsyncnorm.so"
    assert library.is_symlink()
    assert library.resolve().name == f"libsyncnorm.so.{syncnorm.__version__}"
    assert f"soname: [libsyncnorm.so.{major}.{minor}]" in run("readelf", "--dynamic", library)


def pkg_config(installed: Path, *arguments: str) -> str:
    # pkgconf of PyPI, which looks nowhere but where it is told to.
    return run(
        *(sys.executable, "-m", "pkgconf", "--with-path", installed / "lib/pkgconfig"),
        *(*arguments, "syncnorm"),
    )


def test_pkg_config_knows_how_to_compile_and_link(installed, tmp_path):
    assert pkg_config(installed, "--modversion") == syncnorm.__version__
    libdir = Path(pkg_config(installed, "--variable=libdir"))
    assert libdir.resolve() == (installed / "lib").resolve()
    assert Path(pkg_config(installed, "--variable=prefix")).resolve() == installed.resolve()
    program = tmp_path / "consumer_c"
    run(
        *("cc", *STRICT, CONSUMER / "consumer.c", "-o", program, "-lm"),
        *shlex.split(pkg_config(installed, "--cflags", "--libs")),
        f"-Wl,-rpath,{libdir.resolve()}",
    )
    assert run(program) == syncnorm.__version__


def test_a_c_program_finds_it_at_run_time(installed, tmp_path):
    program = tmp_path / "finder"
    include = f"-I{installed / 'include'}"
    run("cc", *STRICT, include, CONSUMER / "dlopen.c", "-o", program, "-ldl")
    assert run(program, installed / f"lib/libsyncnorm.{SUFFIX}") == syncnorm.__version__


def test_it_refuses_a_library_that_its_header_is_not_for(prefix, tmp_path):
    shutil.copytree(prefix / "include", tmp_path / "include")
    header = tmp_path / "include/syncnorm/version.h"
    minor = syncnorm.__version__.split(".")[1]
    old, new = (f"SYNCNORM_VERSION_MINOR {number}" for number in (minor, int(minor) + 1))
    header.write_text(header.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    include, program = f"-I{tmp_path / 'include'}", tmp_path / "finder"
    run("cc", *STRICT, include, CONSUMER / "dlopen.c", "-o", program, "-ldl")
    done = subprocess.run(
        [program, prefix / f"lib/libsyncnorm.{SUFFIX}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "another version than the header" in done.stderr
