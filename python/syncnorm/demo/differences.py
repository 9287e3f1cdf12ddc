"""Compare the states of two networks that should be equal."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from syncnorm import InvalidArgumentError

from .messages import Difference

State = dict[str, torch.Tensor]
_STATISTICS = ("running_mean", "running_var")


def compare_states(
    dtype: str, ours: dict[int, State], reference: dict[int, State]
) -> Iterator[Difference]:
    """Yield the largest differences after every step that both runs kept the state of."""
    for step in sorted(ours.keys() & reference.keys()):
        yield Difference(dtype, step, *largest_differences(ours[step], reference[step]))


def largest_differences(ours: State, reference: State) -> tuple[float, float]:
    """Return the largest absolute differences of the parameters and of the running statistics.

    Raises:
        InvalidArgumentError: The states have different names.
    """
    if ours.keys() != reference.keys():
        raise InvalidArgumentError(
            f"states of two networks: {sorted(ours.keys() ^ reference.keys())} are in one of them"
            " only, expected the same names in both"
        )
    parameters = statistics = 0.0
    for name, value in ours.items():
        if not value.is_floating_point():
            continue
        difference = (value - reference[name]).abs().max().item()
        if name.endswith(_STATISTICS):
            statistics = max(statistics, difference)
        else:
            parameters = max(parameters, difference)
    return parameters, statistics
