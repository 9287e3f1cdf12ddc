"""Parse the demo's command line into its configuration."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

import syncnorm
from syncnorm._facts import usable_cores

DEFAULT_MAX_RANKS = 8
DEFAULT_EPOCHS = 4
QUICK_STEPS = 40


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """The demo's configuration.

    steps: None for as many as `epochs` take. device: "cpu" or "cuda". timeout: seconds without a
    message from any rank before the demo fails. output: folder of the result files.
    """

    ranks: int
    batch_per_rank: int
    epochs: int
    steps: int | None
    learning_rate: float
    momentum: float
    seed: int
    device: str
    timeout: float
    output: Path

    @property
    def whole_batch(self) -> int:
        """The number of samples of all ranks in a step."""
        return self.ranks * self.batch_per_rank

    def total_steps(self, samples: int) -> int:
        """Return the number of steps of a full run on `samples` training samples."""
        return self.steps or self.epochs * (samples // self.whole_batch)


def usable_gpus() -> int:
    """Return the number of GPUs that both torch and this build of syncnorm can use."""
    capabilities = syncnorm.capabilities()
    devices: int = capabilities["cuda_devices"]
    if not capabilities["cuda_built"] or not torch.cuda.is_available():
        return 0
    return min(torch.cuda.device_count(), devices)


def parse_args(argv: Sequence[str]) -> DemoConfig:
    """Parse the command line; print an error and exit with code 2 if it is invalid."""
    parser = _parser()
    args = parser.parse_args(argv)
    device, ranks = _device_and_ranks(args, parser)
    if ranks < 2:
        parser.error(f"--ranks is {ranks}, expected at least 2 ranks to synchronize")
    if args.batch_per_rank < 2:
        parser.error(
            f"--batch-per-rank is {args.batch_per_rank}, expected at least 2 samples for local "
            "BatchNorm"
        )
    steps = args.steps or (QUICK_STEPS if args.quick and not args.epochs else None)
    return DemoConfig(
        ranks=ranks,
        batch_per_rank=args.batch_per_rank,
        epochs=args.epochs or DEFAULT_EPOCHS,
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
        return device, args.ranks or max(2, min(usable_cores(), DEFAULT_MAX_RANKS))
    ranks = args.ranks or max(1, gpus)
    if ranks > gpus:
        problem = syncnorm.capabilities()["cuda_problem"]
        parser.error(
            f"--ranks is {ranks}, expected at most {gpus}, the number of GPUs that syncnorm and "
            "torch can use: every rank needs its own GPU"
            + (f". syncnorm can use none: {problem}" if problem else "")
        )
    return device, ranks


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected a positive number")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a positive number of seconds")
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
    length.add_argument("--epochs", type=_positive, help=f"default: {DEFAULT_EPOCHS}")
    length.add_argument("--steps", type=_positive, help="steps instead of epochs")
    add("--batch-per-rank", type=_positive, default=2, help="samples (default: 2)")
    add("--learning-rate", type=float, default=0.01, help="of SGD (default: 0.01)")
    add("--momentum", type=float, default=0.9, help="of SGD (default: 0.9)")
    add("--seed", type=int, default=0, help="of parameters and sample order (default: 0)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    add(
        "--timeout",
        type=_seconds,
        default=120.0,
        help="seconds without a message from a rank before the demo fails (default: 120)",
    )
    add("--output", type=Path, default=Path("demo-results"), help="folder (default: demo-results)")
    add("--quick", action="store_true", help=f"only {QUICK_STEPS} steps: check that it works")
    return parser
