"""The public headers: each compiles alone, wrong use does not, and C++ has all that C has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
INCLUDE = ROOT / "core/include"
HEADERS = sorted(path.name for path in (INCLUDE / "syncnorm").iterdir())
C_HEADERS = [name for name in HEADERS if name.endswith(".h")]
# mpi.hpp and its part need the embedder's <mpi.h>.
CXX_HEADERS = [name for name in HEADERS if not name.startswith("mpi")]
MISUSE = Path(__file__).parent / "consumer/misuse.cpp"
WARNINGS = ("-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wundef", "-Werror")
FOREIGN = re.compile(r"cuda|nccl|mpi\b|python|torch|numpy", re.IGNORECASE)


def compile_only(text: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    compiler, suffix = ("cc", "c") if options[0].startswith("-std=c1") else ("c++", "cpp")
    source = folder / f"source.{suffix}"
    source.write_text(text, encoding="utf-8")
    command = [compiler, *options, f"-I{INCLUDE}", "-fsyntax-only", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_headers_are_seen():
    assert {"syncnorm.h", "version.h"} == set(C_HEADERS)
    assert {"syncnorm.hpp", "errors.hpp", "types.hpp"} <= set(CXX_HEADERS)


@pytest.mark.parametrize(
    ("header", "options"),
    [
        *((name, "-std=c11") for name in C_HEADERS),
        *((name, "-std=c++17") for name in CXX_HEADERS),
        *((name, "-std=c++20") for name in CXX_HEADERS),
        ("syncnorm.hpp", "-std=c++17 -fno-exceptions -fno-rtti"),
    ],
)
def test_a_header_compiles_alone_and_pulls_in_nothing(tmp_path, header, options):
    listed = tmp_path / "listed"
    depend = ("-MD", "-MF", str(listed))
    text = 2 * f"#include <syncnorm/{header}>\n" + "typedef int something;\n"
    done = compile_only(text, tmp_path, *options.split(), *WARNINGS, *depend)
    assert done.returncode == 0, done.stderr
    names = listed.read_text(encoding="utf-8").replace("\\\n", " ").split()[2:]
    assert str(INCLUDE / "syncnorm" / header) in names
    assert [name for name in names if FOREIGN.search(Path(name).name)] == []


def test_c_programs_get_no_macro_but_ours(tmp_path):
    """Apart from what <stddef.h> and <stdint.h> define."""

    def macros(text: str) -> set[str]:
        source = tmp_path / "source.c"
        source.write_text(text, encoding="utf-8")
        command = ["cc", "-std=c11", f"-I{INCLUDE}", "-dM", "-E", str(source)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return set(re.findall(r"^#define (\w+)", out, re.MULTILINE))

    standard = "#include <stddef.h>\n#include <stdint.h>\n"
    ours = macros(standard + "#include <syncnorm/syncnorm.h>\n") - macros(standard)
    assert len(ours) > 10
    assert [name for name in ours if not name.startswith("SYNCNORM_")] == []


# ------------------------------------------------------------------------------------ wrong use


def test_wrong_use_does_not_compile(tmp_path):
    lines = MISUSE.read_text(encoding="utf-8").splitlines()
    marked = {
        number: line.partition("// refused: ")[2]
        for number, line in enumerate(lines, 1)
        if "// refused: " in line
    }
    assert len(marked) > 25
    right = "\n".join(line for line in lines if "// refused: " not in line) + "\n"
    done = compile_only(right, tmp_path, "-std=c++17")
    assert done.returncode == 0, done.stderr

    done = compile_only("\n".join(lines) + "\n", tmp_path, "-std=c++17")
    found: dict[int, str] = {}
    for number, message in re.findall(r"source\.cpp:(\d+):\d+: error: (.*)", done.stderr):
        found.setdefault(int(number), message)
    accepted = [lines[number - 1].strip() for number in marked if number not in found]
    assert not accepted, "\n".join(["these compile:", *accepted])
    assert set(found) == set(marked)
    for number, expected in marked.items():
        assert re.search(expected, found[number]), lines[number - 1].strip()


def test_without_exceptions_a_call_needs_its_status(tmp_path):
    text = "#include <syncnorm/syncnorm.hpp>\nvoid f() { syncnorm::query_sizes({1, 1, 1}, {}); }\n"
    assert compile_only(text, tmp_path, "-std=c++17").returncode == 0
    done = compile_only(text, tmp_path, "-std=c++17", "-fno-exceptions")
    assert "without exceptions the last argument must be a syncnorm::Status" in done.stderr


# ------------------------------------------------------------------------------- C++ and C alike


def test_every_c_function_is_reached_from_cpp():
    header = (INCLUDE / "syncnorm/syncnorm.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^SYNCNORM_API [^;(]*?\b(syncnorm_\w+)\(", header, re.MULTILINE))
    assert len(declared) > 25
    face = "".join(
        (INCLUDE / "syncnorm" / name).read_text(encoding="utf-8")
        for name in CXX_HEADERS
        if name not in C_HEADERS
    )
    called = set(re.findall(r"\b(syncnorm_\w+)\(", re.sub(r"//.*", "", face)))
    assert declared - called == set()
