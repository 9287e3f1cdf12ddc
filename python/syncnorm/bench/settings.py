"""The benchmark's command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from syncnorm._facts import usable_cores

from .cases import DTYPES, LAYOUTS, QUICK_SHAPES, SHAPES

_LAYOUT_NAMES = {"nchw": "channels_first", "nhwc": "channels_last"}


@dataclasses.dataclass(frozen=True)
class Settings:
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    threads: tuple[int, ...]
    repeat: int
    path: str  # "layer" or "phases"
    output: Path
    quick: bool
    default_malloc: bool


def parse(argv: Sequence[str]) -> Settings:
    args = _parser().parse_args(argv)
    return Settings(
        shapes=args.shapes or (QUICK_SHAPES if args.quick else SHAPES),
        dtypes=args.dtypes,
        layouts=args.layouts,
        threads=args.threads or _default_threads(args.quick),
        repeat=args.repeat or (5 if args.quick else 11),
        path=args.path,
        output=args.output,
        quick=args.quick,
        default_malloc=args.default_malloc,
    )


def _default_threads(quick: bool) -> tuple[int, ...]:
    return (1,) if quick or usable_cores() == 1 else (1, 2)


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.lower().split("x"))
    if not 2 <= len(sizes) <= 5 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a shape such as 32x64x112x112")
    return sizes


def _layout(text: str) -> str:
    layout = _LAYOUT_NAMES.get(text.lower(), text)
    if layout not in LAYOUTS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a layout: NCHW or NHWC")
    return layout


def _dtype(text: str) -> str:
    allowed = ("float16", *DTYPES, "float64")
    if text not in allowed:
        raise argparse.ArgumentTypeError(f"'{text}' is not a dtype: {', '.join(allowed)}")
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _list(item: Callable[[str], object]) -> Callable[[str], tuple[object, ...]]:
    """The type of a comma-separated list, each value once."""

    def comma_separated(text: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return comma_separated


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncnorm bench",
        description="Time syncnorm's layer beside torch's batch norm on the CPU, in interleaved "
        "rounds. Lists are separated by commas.",
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
        help="layer: the module in a group of one; phases: what a rank of a larger group computes, "
        "without the exchange (default: layer)",
    )
    add(
        "--output", type=Path, default=Path("bench-results"), help="folder (default: bench-results)"
    )
    add("--quick", action="store_true", help="small shapes, one thread, few rounds: seconds")
    add(
        "--default-malloc",
        action="store_true",
        help="leave the memory allocator as it is instead of letting glibc reuse large buffers",
    )
    return parser
