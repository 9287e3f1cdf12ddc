"""Command line: python -m syncnorm info | demo | bench, and the paths of the C++ package."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import syncnorm
from syncnorm import _core

# Distributions of each framework. CuPy's names depend on the CUDA version.
_FRAMEWORKS = {
    "torch": ("torch",),
    "numpy": ("numpy",),
    "cupy": ("cupy", "cupy-cuda12x", "cupy-cuda13x"),
    "jax": ("jax",),
    "mpi4py": ("mpi4py",),
}

# Option --<name>-dir: path in an installed syncnorm, and description.
_DIRECTORIES = {
    "cmake": ("lib/cmake/syncnorm", "the CMake package"),
    "include": ("include", "the headers"),
    "library": ("lib", "the library"),
    "pkgconfig": ("lib/pkgconfig", "the file for pkg-config"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: The arguments; None uses sys.argv[1:].
    """
    arguments, rest = _parser().parse_known_args(sys.argv[1:] if argv is None else argv)
    if arguments.command == "demo":
        from syncnorm.demo import main as demo

        return demo(rest)
    if arguments.command == "bench":
        from syncnorm.bench import main as bench

        return bench(rest)
    if rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.directory is not None:
        return _print_directory(arguments.directory)
    if arguments.command == "info":
        print(info())
        return 0
    _parser().print_help()
    return 2


def info() -> str:
    """Return the output of `python -m syncnorm info`: capabilities and versions, one per line."""
    found = syncnorm.capabilities()
    lines = [
        ("syncnorm", found["version"]),
        ("library", found["library"] or "unknown"),
        ("python", f"{sys.version.split()[0]}, {sys.executable}"),
        ("CPU", f"instruction set {found['cpu_isa']}"),
        ("CUDA", _cuda_line(found["cuda_built"], found["cuda_devices"], found["cuda_problem"])),
        ("NCCL", _nccl_line(found["cuda_built"], found["nccl"])),
        *(("", f"{path}: another copy in this process") for path in found["other_nccl"]),
        *((name, _framework_line(packages)) for name, packages in _FRAMEWORKS.items()),
    ]
    return "\n".join(f"{name:<9}{line}" for name, line in lines)


def _cuda_line(built: bool, devices: int, problem: str | None) -> str:
    if not built:
        return "not in this build; SYNCNORM_CUDA=ON builds it (docs/building.md)"
    if devices == 0:
        return f"built; no usable device: {problem}"
    return f"built; {devices} usable device{'s' if devices > 1 else ''}"


def _nccl_line(cuda_built: bool, nccl: str | None) -> str:
    if nccl is not None:
        return nccl if cuda_built else f"{nccl}; not used: this build has no CUDA backend"
    if named := os.environ.get("SYNCNORM_NCCL_LIBRARY"):
        return f"not found: SYNCNORM_NCCL_LIBRARY names {named}, which cannot be loaded as NCCL"
    return "not found: not loaded, no package nvidia-nccl, no system library"


def _framework_line(packages: Sequence[str]) -> str:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _print_directory(relative: str) -> int:
    # In an editable install only the compiled module is in the installed package.
    directory = Path(_core.__file__).parent / relative
    if not directory.is_dir():
        print(
            f"syncnorm: {directory} does not exist: install the package with pip", file=sys.stderr
        )
        return 1
    print(directory)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncnorm", description="Synchronized batch normalization.", add_help=False
    )
    parser.add_argument("--version", action="version", version=syncnorm.__version__)
    for name, (relative, what) in _DIRECTORIES.items():
        parser.add_argument(
            f"--{name}-dir",
            dest="directory",
            action="store_const",
            const=relative,
            help=f"print the folder of {what}",
        )
    commands = parser.add_subparsers(dest="command", metavar="{info,demo,bench}")
    commands.add_parser("info", help="print capabilities and versions")
    # demo and bench parse their own options, -h among them.
    commands.add_parser("demo", help="train on several ranks and compare", add_help=False)
    commands.add_parser("bench", help="measure speed on this machine", add_help=False)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
