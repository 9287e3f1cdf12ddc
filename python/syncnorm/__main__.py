"""Command line: python -m syncnorm info | demo | bench | run, and the paths of the C++ package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import syncnorm
from syncnorm import _core

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
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # all that follows belongs to the script
        from syncnorm.run import main as run

        return run(argv[1:])
    arguments, rest = _parser().parse_known_args(argv)
    if arguments.command == "demo":
        from syncnorm.demo import main as demo

        return demo(rest)
    if arguments.command == "bench":
        from syncnorm.bench import main as bench

        return bench(rest)
    if arguments.command == "info":
        from syncnorm.info import main as info

        return info(rest)
    if rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.directory is not None:
        return _print_directory(arguments.directory)
    _parser().print_help()
    return 2


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
    commands = parser.add_subparsers(dest="command", metavar="{info,demo,bench,run}")
    # Each command parses its own options, -h among them.
    commands.add_parser("info", help="print capabilities and versions", add_help=False)
    commands.add_parser("demo", help="train on several ranks and compare", add_help=False)
    commands.add_parser("bench", help="measure speed on this machine", add_help=False)
    commands.add_parser("run", help="run a training script with syncnorm's layers", add_help=False)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
