"""Parse the benchmark's command line into its configuration."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from syncnorm._facts import usable_cores

from .cases import DTYPES, LAYOUTS, QUICK_SHAPES, SHAPES

_LAYOUT_NAMES = {"nchw": "channels_first", "nhwc": "channels_last"}


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """The benchmark's configuration.

    threads: numbers of threads to measure with. repeat: rounds per measurement. path: "layer" or
    "phases". output: folder of the result files. default_malloc: leave the memory allocator as is.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    threads: tuple[int, ...]
    repeat: int
    path: str
    output: Path
    quick: bool
    default_malloc: bool


def parse_args(argv: Sequence[str]) -> BenchConfig:
    """Parse the command line; print an error and exit with code 2 if it is invalid."""
    args = _parser().parse_args(argv)
    return BenchConfig(
        shapes=args.shapes or (QUICK_SHAPES if args.quick else SHAPES),
        dtypes=args.dtypes,
        layouts=args.layouts,
        threads=args.threads or ((1,) if args.quick or usable_cores() == 1 else (1, 2)),
        repeat=args.repeat or (5 if args.quick else 11),
        path=args.path,
        output=args.output,
        quick=args.quick,
        default_malloc=args.default_malloc,
    )


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"0*[1-9]\d*(x0*[1-9]\d*){1,4}", text.lower()):
        raise argparse.ArgumentTypeError(
            f"invalid shape '{text}', expected 2 to 5 positive sizes such as 32x64x112x112"
        )
    return tuple(map(int, text.lower().split("x")))


def _layout(text: str) -> str:
    layout = _LAYOUT_NAMES.get(text.lower(), text)
    if layout not in LAYOUTS:
        raise argparse.ArgumentTypeError(f"invalid layout '{text}', expected NCHW or NHWC")
    return layout


def _dtype(text: str) -> str:
    allowed = ("float16", *DTYPES, "float64")
    if text not in allowed:
        raise argparse.ArgumentTypeError(f"invalid dtype '{text}', expected {', '.join(allowed)}")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected a positive number")
    return value


def _list(item: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    """Return an argument type: comma-separated items without duplicates."""

    def comma_separated(text: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return comma_separated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncnorm bench",
        description="Time syncnorm's layer beside torch's batch norm on the CPU, in interleaved "
        "rounds. Separate the items of a list by commas.",
    )
    shapes = ",".join("x".join(map(str, shape)) for shape in SHAPES)
    add = parser.add_argument
    add("--shapes", type=_list(_shape), help=f"default: {shapes}")
    add("--dtypes", type=_list(_dtype), default=DTYPES, help=f"default: {','.join(DTYPES)}")
    add("--layouts", type=_list(_layout), default=LAYOUTS, help="default: NCHW,NHWC")
    add("--threads", type=_list(_positive), help="default: 1,2")
    add("--repeat", type=_positive, help="rounds per measurement (default: 11)")
    add(
        "--path",
        choices=("layer", "phases"),
        default="layer",
        help="layer: the module in a group of one rank; phases: the computation of one rank of a "
        "larger group, without the all-reduce (default: layer)",
    )
    add(
        "--output", type=Path, default=Path("bench-results"), help="folder (default: bench-results)"
    )
    add("--quick", action="store_true", help="small shapes, one thread, few rounds; takes seconds")
    add(
        "--default-malloc",
        action="store_true",
        help="leave the memory allocator as it is; by default glibc is set to reuse large buffers",
    )
    return parser
