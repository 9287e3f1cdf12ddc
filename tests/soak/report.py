"""Decides whether a soak passed, and formats its figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .training import Sample

# After the first third of the samples. RSS: 4 MiB over 20,000 steps are 210 bytes a step.
RSS_LIMIT = 4 * 2**20
# Relative and absolute, of parameters, running statistics and losses, which are float64: rounding
# errors of a sum over ranks, carried from step to step.
TOLERANCE = 1e-9


def steady(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return the samples after the warm-up."""
    return samples[len(samples) // 3 :]


def growth_errors(rank: int, samples: Sequence[Sample]) -> list[str]:
    """Return what grew on a rank after the warm-up, one line each."""
    kept, errors = steady(samples), []
    growth = max(sample.rss for sample in kept) - kept[0].rss
    if growth > RSS_LIMIT:
        errors.append(f"rank {rank}: RSS grew by {growth} bytes, expected at most {RSS_LIMIT}")
    for name in ("descriptors", "threads"):
        counts = [getattr(sample, name) for sample in kept]
        if len(set(counts)) > 1:
            errors.append(f"rank {rank}: {name} were {counts}, expected one number")
    return errors


def agreement_errors(ranks: Sequence[Sequence[Sample]]) -> list[str]:
    """Return where the state of a rank has other bits than that of rank 0."""
    return [
        f"step {first.step}: {name} of rank {rank} and of rank 0 have different bits"
        for rank, samples in enumerate(ranks)
        for first, sample in zip(ranks[0], samples, strict=True)
        for name, value in first.state.items()
        if value.tobytes() != sample.state[name].tobytes()
    ]


def worst_difference(ranks: Sequence[Sequence[Sample]], alone: Sequence[Sample]) -> float:
    """Return the largest difference from the run on one process, relative to max(1, |value|)."""
    worst = 0.0
    for index, expected in enumerate(alone):
        loss = sum(samples[index].loss for samples in ranks)
        pairs = [(np.array(loss), np.array(expected.loss))]
        pairs += [(ranks[0][index].state[name], value) for name, value in expected.state.items()]
        for actual, value in pairs:
            difference = np.abs(actual - value) / np.maximum(1, np.abs(value))
            worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
    return worst


def soak_errors(ranks: Sequence[Sequence[Sample]], alone: Sequence[Sample]) -> list[str]:
    """Return everything that a soak must not show, one line each."""
    errors = [e for rank, samples in enumerate(ranks) for e in growth_errors(rank, samples)]
    errors += agreement_errors(ranks)
    worst = worst_difference(ranks, alone)
    if not worst <= TOLERANCE:
        errors.append(f"one process: differs by {worst:.2g}, expected at most {TOLERANCE}")
    return errors


def format_table(
    kind: str, ranks: Sequence[Sequence[Sample]], alone: Sequence[Sample]
) -> list[str]:
    """Return the figures as a table in Markdown: one row for each rank."""
    header = (
        "| ranks | rank | steps | seconds | RSS begin, end (MiB) | descriptors | threads"
        " | worst difference from one process |"
    )
    lines = [header, "|---|---|---|---|---|---|---|---|"]
    worst = worst_difference(ranks, alone)
    for rank, samples in enumerate(ranks):
        kept = steady(samples)
        last = kept[-1]
        lines.append(
            f"| {len(ranks)} {kind} | {rank} | {last.step} | {last.seconds:.0f}"
            f" | {kept[0].rss / 2**20:.1f}, {last.rss / 2**20:.1f}"
            f" | {kept[0].descriptors}, {last.descriptors} | {kept[0].threads}, {last.threads}"
            f" | {worst:.1e} |"
        )
    return lines
