"""The layers of the project, and what breaks them.

    python/* -> bindings -> public headers -> api -> ops -> {plan, comm, backend} -> {math, support}

A file belongs to a room, named after its folder; a room may use the rooms listed for it and itself.
Every function here takes the root of a source tree and returns one line per violation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

FOLDERS = ("core", "bindings", "python", "tests", "examples", "benchmarks", "tools", "cmake")
CXX_SUFFIXES = {".h", ".hpp", ".c", ".cpp", ".inl", ".cu", ".cuh"}
COLUMNS_LIMIT = 100
# Files in a chain of imports, from what users import to the last helper.
CHAIN_LIMIT = 10

# ----------------------------------------------------------------------------------- C and C++

# From the most specific to the least; the first that matches names the room. A trailing * stands
# for any ending, else it is a file or a folder.
CXX_ROOMS = {
    "core/include/syncnorm/syncnorm.h": "abi",
    "core/include/syncnorm/version.h": "abi",
    "core/include/syncnorm": "public",
    "core/src/backend/cuda/device": "backend/cuda/device",
    "core/src/backend/cuda": "backend/cuda",
    "core/src/backend/cpu": "backend/cpu",
    "core/src/backend/none": "backend/none",
    "core/src/backend": "backend",
    "core/src/api": "api",
    "core/src/ops": "ops",
    "core/src/plan": "plan",
    "core/src/comm": "comm",
    "core/src/math": "math",
    "core/src/support": "support",
    "bindings": "bindings",
    "tests/cpp/test_abi_*": "embedder",
    "tests/cpp": "internal tests",
    "tests/fuzz": "embedder",
    "tests/simt": "simt",
    "tests/python/house/consumer": "embedder",
    "tests/python/mpi/mpi_hpp": "embedder",
    "examples": "embedder",
    "benchmarks": "embedder",
}

_LEAVES = {"abi", "math", "support"}
_BACKEND = {"backend", "plan", *_LEAVES}  # the port, and the description of the problem
MAY_INCLUDE = {
    "abi": set(),
    "public": {"abi"},
    "math": _LEAVES,
    "support": _LEAVES,
    "plan": _LEAVES,
    "comm": _LEAVES,
    "backend": _BACKEND,
    "backend/none": _BACKEND,
    "backend/cpu": _BACKEND,
    "backend/cuda": {"backend/cuda/device", *_BACKEND},
    "backend/cuda/device": _LEAVES,
    "ops": {"plan", "comm", "backend", *_LEAVES},
    # backend/cpu only to name the instruction set that runs
    "api": {"ops", "plan", "comm", "backend", "backend/cpu", *_LEAVES},
    "bindings": {"abi", "public"},
    "embedder": {"abi", "public", "internal tests"},
    "simt": set(),
    "internal tests": set(CXX_ROOMS.values()) - {"bindings"},
}

_C_HEADERS = re.compile(
    r"(assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal"
    r"|stdalign|stdarg|stdbool|stddef|stdint|stdio|stdlib|string|tgmath|time|uchar|wchar|wctype)\.h"
)
# Besides the standard library, by room.
FOREIGN_HEADERS = {
    "backend/cpu": r"(arm_neon|cpuid|immintrin|pthread|sched|unistd)\.h|sys/\w+\.h",
    "backend/cuda": r"cuda\w*\.h",
    "backend/cuda/device": r"cuda\w*\.h|cooperative_groups\.h",
    "comm": r"(cuda_runtime_api|dlfcn|immintrin|pthread|unistd)\.h",
    "bindings": r"(Python|cxxabi|dlfcn|pthread|unistd|xla_ffi)\.h|nanobind/.*",
    "simt": (
        r"(cuda\w*|cooperative_groups|elf|fcntl|link|ucontext|unistd)\.h"
        r"|(sanitizer|sys)/\w+\.h|doctest/doctest\.h"
    ),
    "internal tests": r"doctest/doctest\.h|\w+\.h|sys/\w+\.h",
    "embedder": r"doctest/doctest\.h|(dlfcn|mpi|unistd)\.h|sys/wait\.h",
}
FOREIGN_HEADERS_OF_FILE = {
    "core/include/syncnorm/mpi.hpp": r"mpi\.h",
    "core/include/syncnorm/mpi_link.hpp": r"mpi\.h",
    "core/src/support/cuda_runtime.hpp": r"cuda_runtime_api\.h",
    "examples/04_cuda_nccl/device.hpp": r"(cuda_runtime_api|nccl)\.h",
    "examples/05_libtorch/main.cpp": r"torch/\S+\.h",
    "examples/05_libtorch/sync_batch_norm.hpp": r"torch/\S+\.h",
}

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
_INCLUDE_FOLDERS = (
    "core/include",
    "core/src",
    "tests/cpp",
    "tests/cpp/vendor",
    "tests/simt",
    "bindings",
)
# What stands there in place of the toolkit's headers is not what the core depends on.
_SIMT_FOLDERS = (*_INCLUDE_FOLDERS, "tests/simt/include")


def files(root: Path, suffixes: set[str]) -> Iterator[tuple[str, Path]]:
    """Name the project's own files with these suffixes, relative to the root."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.suffix in suffixes and path.is_file() and "/vendor/" not in name:
                yield name, path


def cxx_room(name: str) -> str | None:
    path = PurePosixPath(name)
    for place, room in CXX_ROOMS.items():
        if path.is_relative_to(place) or (place.endswith("*") and name.startswith(place[:-1])):
            return room
    return None


def _resolve(root: Path, name: str, header: str) -> str | None:
    """Find the project's file that an include means; None for a header from elsewhere."""
    folders = _SIMT_FOLDERS if cxx_room(name) == "simt" else _INCLUDE_FOLDERS
    for folder in (PurePosixPath(name).parent.as_posix(), *folders):
        candidate = root / folder / header
        if candidate.is_file():
            return candidate.resolve().relative_to(root.resolve()).as_posix()
    return None


def _is_standard(header: str) -> bool:
    return bool(re.fullmatch(r"\w+", header) or _C_HEADERS.fullmatch(header))


def _includes(root: Path) -> Iterator[tuple[str, str, str | None]]:
    for name, path in files(root, CXX_SUFFIXES):
        for _, header in _INCLUDE.findall(path.read_text(encoding="utf-8")):
            yield name, header, _resolve(root, name, header)


def include_violations(root: Path) -> list[str]:
    found = []
    for name, header, target in _includes(root):
        room = cxx_room(name)
        if room is None:
            found.append(f"{name}: belongs to no room of tests/python/house/layers.py")
        elif target is None:
            allowed = FOREIGN_HEADERS_OF_FILE.get(name, FOREIGN_HEADERS.get(room))
            if not _is_standard(header) and not (allowed and re.fullmatch(allowed, header)):
                found.append(f"{name}: {room} must not include <{header}>")
        elif "/vendor/" not in target:
            to = cxx_room(target)
            if to != room and to not in MAY_INCLUDE[room]:
                found.append(f"{name}: {room} must not include {target} ({to})")
    return found


def include_cycles(root: Path) -> list[str]:
    """Find headers that include each other, over any number of steps."""
    graph: dict[str, list[str]] = {}
    for name, _, target in _includes(root):
        if target is not None:
            graph.setdefault(name, []).append(target)
    return _cycles(graph)


def _cycles(graph: dict[str, list[str]]) -> list[str]:
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for target in graph.get(name, []):
                visit(target, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return found


# -------------------------------------------------------------------------------------- Python

# Which rooms of python/syncnorm may import a framework. demo, bench and info are programs.
FRAMEWORKS = {
    "torch": {"torch", "demo", "bench", "info"},
    "cupy": {"cupy"},
    "numpy": {"numpy", "demo", "bench", "info"},
    "jax": {"jax", "flax", "bench", "info"},
    "flax": {"flax"},
    "mpi4py": {"comm", "launcher", "info"},
    "sklearn": {"demo"},
    "matplotlib": {"demo", "bench"},
}
# Rooms that only these may import, besides themselves; a room not named here is free for all.
IMPORTED_ONLY_BY = {
    "arrays": {"numpy", "cupy"},
    # launcher: the process group of a job that torchrun started
    "torch": {"demo", "bench", "info", "launcher", "run"},
    "cupy": {"info"},
    "numpy": {"demo", "bench", "info"},
    "jax": {"flax", "bench", "info"},
    "flax": set(),
    "launcher": {"info"},
    "demo": {"__main__"},
    "bench": {"__main__"},
    "info": {"__main__"},
    "run": {"__main__"},
    "_cli": {"__main__", "demo", "bench", "info", "run"},
}


def python_room(name: str) -> str:
    """Name the folder or the module directly below python/syncnorm."""
    return PurePosixPath(name).relative_to("python/syncnorm").with_suffix("").parts[0]


def _imported(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Give the absolute names of all imports, those in functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def import_violations(root: Path) -> list[str]:
    found = []
    for name, path in files(root, {".py"}):
        if not name.startswith("python/syncnorm/"):
            continue
        room = python_room(name)
        package = list(PurePosixPath(name).relative_to("python").parent.parts)
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")), package):
            top, *rest = module.split(".")
            if top in FRAMEWORKS and room not in FRAMEWORKS[top]:
                found.append(f"{name}: {room} must not import {top}")
            if top == "syncnorm" and rest:
                users = IMPORTED_ONLY_BY.get(rest[0])
                if users is not None and room != rest[0] and room not in users:
                    found.append(f"{name}: {room} must not import syncnorm.{rest[0]}")
    return found


def _module_file(root: Path, module: str) -> str | None:
    """Find a module's file; that of a package is its __init__.py, of an extension its stub."""
    path = module.replace(".", "/")
    names = (f"python/{path}.py", f"python/{path}/__init__.py", f"python/{path}.pyi")
    return next((name for name in names if (root / name).is_file()), None)


def _import_graph(root: Path, folder: str) -> dict[str, list[str]]:
    """Return which files in this folder each of them imports, also in functions and for types.

    An imported name is a module, or else an attribute of the module before it.
    """
    graph = {}
    for name, path in files(root, {".py"}):
        if not name.startswith(folder):
            continue
        package = list(PurePosixPath(name).relative_to("python").parent.parts)
        targets = (
            _module_file(root, module) or _module_file(root, module.rpartition(".")[0])
            for module in _imported(ast.parse(path.read_text(encoding="utf-8")), package)
            if module.partition(".")[0] == "syncnorm"
        )
        graph[name] = sorted({to for to in targets if to and to.startswith(folder)})
    return graph


def import_cycles(root: Path) -> list[str]:
    """Find files of the package that import each other, over any number of steps."""
    return _cycles(_import_graph(root, "python/syncnorm/"))


def longest_chain(root: Path, folder: str = "python/syncnorm/torch/") -> list[str]:
    """Return the longest chain of files in a folder that import one another; without cycles.

    An __init__.py that only runs because a module of its package is imported does not count.
    """
    graph, longest = _import_graph(root, folder), {}

    def chain(name: str) -> list[str]:
        if name not in longest:
            longest[name] = []  # ends a cycle, which import_cycles reports
            rest = max((chain(to) for to in graph.get(name, [])), key=len, default=[])
            longest[name] = [name, *rest]
        return longest[name]

    starts = (name for name in graph if PurePosixPath(name).name != "__init__.py")
    return max((chain(name) for name in starts), key=len, default=[])


def chain_violations(root: Path) -> list[str]:
    chain = longest_chain(root)
    if len(chain) <= CHAIN_LIMIT:
        return []
    return [f"{' -> '.join(chain)}: {len(chain)} files, expected at most {CHAIN_LIMIT}"]


# ---------------------------------------------------------------------------------------- size


def size_violations(root: Path) -> list[str]:
    return [
        f"{name}:{number}: {len(line)} columns, expected at most {COLUMNS_LIMIT}"
        for name, path in files(root, {*CXX_SUFFIXES, ".py", ".cmake", ".txt"})
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > COLUMNS_LIMIT
    ]
