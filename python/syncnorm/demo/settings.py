"""What the user can choose, and the plan that follows from it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

import syncnorm
from syncnorm._facts import usable_cores

MOST_RANKS_BY_DEFAULT = 8
EPOCHS_BY_DEFAULT = 4
QUICK_STEPS = 40
POINTS = 40  # of a curve
EARLY_STEPS = 5  # the differences are reported after this many steps and at the end
FLOAT64_STEPS = 100  # enough to tell rounding from a wrong formula


@dataclasses.dataclass(frozen=True)
class Settings:
    ranks: int
    batch_per_rank: int
    epochs: int
    steps: int | None  # None: as many as the epochs take
    learning_rate: float
    momentum: float
    seed: int
    device: str  # "cpu" or "cuda"
    timeout: float  # seconds without any sign of life before the demo gives up
    output: Path

    @property
    def whole_batch(self) -> int:
        return self.ranks * self.batch_per_rank

    def total_steps(self, samples: int) -> int:
        return self.steps or self.epochs * (samples // self.whole_batch)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: the same network and the same samples as every other."""

    name: str
    title: str
    norm: str  # "torch" or "syncnorm"
    single: bool  # rank 0 alone takes the whole batch
    dtype: str
    steps: int
    snapshots: tuple[int, ...]  # the steps after which the state is kept for comparison

    def is_point(self, step: int) -> bool:
        """Whether the curves have a point after `step` steps."""
        return step * POINTS // self.steps != (step - 1) * POINTS // self.steps


def plan_runs(settings: Settings, samples: int) -> list[Run]:
    """All runs in their order; those of a single process come last."""
    steps = settings.total_steps(samples)
    short = min(steps, FLOAT64_STEPS)
    sync_title = f"syncnorm, {settings.ranks} ranks"
    whole_title = f"single process, batch {settings.whole_batch}"

    def run(name: str, title: str, norm: str, single: bool, dtype: str) -> Run:
        length = steps if dtype == "float32" else short
        kept = () if name == "local" else tuple(sorted({min(EARLY_STEPS, length), length}))
        if dtype == "float64":
            title += " (float64)"
        return Run(name, title, norm, single, dtype, length, kept)

    return [
        run("local", f"local BatchNorm, {settings.ranks} ranks", "torch", False, "float32"),
        run("syncnorm", sync_title, "syncnorm", False, "float32"),
        run("syncnorm64", sync_title, "syncnorm", False, "float64"),
        run("single", whole_title, "torch", True, "float32"),
        run("single64", whole_title, "torch", True, "float64"),
    ]


def usable_gpus() -> int:
    """GPUs that both torch and this build of syncnorm can use."""
    capabilities = syncnorm.capabilities()
    devices: int = capabilities["cuda_devices"]
    if not capabilities["cuda_built"] or not torch.cuda.is_available():
        return 0
    return min(torch.cuda.device_count(), devices)


def parse(argv: Sequence[str]) -> Settings:
    parser = _parser()
    args = parser.parse_args(argv)
    device, ranks = _device_and_ranks(args, parser)
    if ranks < 2:
        parser.error(f"--ranks is {ranks}; statistics are synchronized over at least 2 ranks")
    if args.batch_per_rank < 2:
        parser.error(
            f"--batch-per-rank is {args.batch_per_rank}; local BatchNorm needs at least 2 samples"
        )
    steps = args.steps or (QUICK_STEPS if args.quick and not args.epochs else None)
    return Settings(
        ranks=ranks,
        batch_per_rank=args.batch_per_rank,
        epochs=args.epochs or EPOCHS_BY_DEFAULT,
        steps=steps,
        learning_rate=args.learning_rate,
        momentum=args.momentum,
        seed=args.seed,
        device=device,
        timeout=args.timeout,
        output=args.output,
    )


def _device_and_ranks(args: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[str, int]:
    gpus = usable_gpus()
    device = args.device
    if device == "auto":
        device = "cuda" if gpus >= max(2, args.ranks or 0) else "cpu"
    if device == "cpu":
        return device, args.ranks or max(2, min(usable_cores(), MOST_RANKS_BY_DEFAULT))
    ranks = args.ranks or gpus
    if ranks > gpus:
        parser.error(
            f"--ranks is {ranks} but syncnorm and torch can use {gpus} GPUs; "
            "a rank needs a GPU of its own"
        )
    return device, ranks


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m syncnorm demo",
        description="Train a small network on handwritten digits with local BatchNorm, with"
        " syncnorm and as a single process on the whole batch; compare.",
    )
    add = parser.add_argument
    add("--ranks", type=_positive, help="default: one per core (at least 2, at most 8) or per GPU")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_positive, help=f"default: {EPOCHS_BY_DEFAULT}")
    length.add_argument("--steps", type=_positive, help="steps instead of epochs")
    add("--batch-per-rank", type=_positive, default=2, help="samples (default: 2)")
    add("--learning-rate", type=float, default=0.01, help="of SGD (default: 0.01)")
    add("--momentum", type=float, default=0.9, help="of SGD (default: 0.9)")
    add("--seed", type=int, default=0, help="of parameters and sample order (default: 0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    add("--timeout", type=_seconds, default=120.0, help="give up after this silence (default: 120)")
    add("--output", type=Path, default=Path("demo-results"), help="folder (default: demo-results)")
    add("--quick", action="store_true", help=f"only {QUICK_STEPS} steps: shows that it works")
    return parser
