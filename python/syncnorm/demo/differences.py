"""How far two networks that should be equal are apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .messages import Difference

State = dict[str, torch.Tensor]
_STATISTICS = ("running_mean", "running_var")


def compare(
    dtype: str, ours: dict[int, State], reference: dict[int, State]
) -> Iterator[Difference]:
    """The largest differences for every step of which both states were kept."""
    for step in sorted(ours.keys() & reference.keys()):
        yield Difference(dtype, step, *largest_differences(ours[step], reference[step]))


def largest_differences(ours: State, reference: State) -> tuple[float, float]:
    """(of the parameters, of the running statistics)."""
    if ours.keys() != reference.keys():
        raise ValueError(f"states differ in {sorted(ours.keys() ^ reference.keys())}")
    parameters = statistics = 0.0
    for name, value in ours.items():
        if not value.is_floating_point():
            continue
        distance = (value - reference[name]).abs().max().item()
        if name.endswith(_STATISTICS):
            statistics = max(statistics, distance)
        else:
            parameters = max(parameters, distance)
    return parameters, statistics
