"""The layers of mxnet, paddle and megengine in training, against the formulas of their systems."""

from __future__ import annotations

from typing import Any

import pytest
from ported_layers import SYSTEMS, dialect
from ported_steps import SIZES, check_training, check_unequal_vector

EVERY = pytest.mark.parametrize("system", SYSTEMS)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("kind", SIZES)
@EVERY
def test_steps_are_those_of_the_formulas(system: str, kind: str, count: int) -> None:
    options = {"num_devices": count} if system == "mxnet" else {}
    check_training(dialect(system, **options), SIZES[kind][:count])


@pytest.mark.parametrize(
    ("system", "tail"),
    [
        (system, tail)
        for system in SYSTEMS
        for tail in ((), (7,), (2, 3, 2))
        if (system, len(tail)) != ("megengine", 3)  # which takes up to four dimensions
    ],
)
def test_of_every_number_of_dimensions(system: str, tail: tuple[int, ...]) -> None:
    check_training(dialect(system), SIZES["unequal"][:3], tail=tail)


@EVERY
def test_in_float32(system: str) -> None:
    check_training(dialect(system), SIZES["unequal"], "float32")


GLOBAL = {"use_global_stats": True}


@pytest.mark.parametrize(
    ("system", "options", "formulas"),
    [
        ("mxnet", {"momentum": 0.3, "epsilon": 0.5}, {"momentum": 0.3, "eps": 0.5}),
        ("mxnet", {"scale": False}, {"fix_gamma": True}),
        ("mxnet", {"center": False}, {}),
        ("mxnet", {"scale": False, "center": False}, {"fix_gamma": True}),
        ("mxnet", GLOBAL, GLOBAL),
        ("mxnet", {**GLOBAL, "scale": False}, {**GLOBAL, "fix_gamma": True}),
        ("paddle", {"momentum": 0.3, "epsilon": 0.5}, {"momentum": 0.3, "epsilon": 0.5}),
        ("paddle", {"weight_attr": False}, {}),
        ("paddle", {"weight_attr": False, "bias_attr": False}, {}),
        ("megengine", {"momentum": 0.3, "eps": 0.5}, {"momentum": 0.3, "eps": 0.5}),
    ],
)
def test_options_are_those_of_the_formulas(
    system: str, options: dict[str, Any], formulas: dict[str, Any]
) -> None:
    check_training(dialect(system, formulas=formulas, **options), SIZES["one empty"][:3])


@EVERY
def test_the_vector_of_unequal_shards(system: str) -> None:
    expected = SYSTEMS[system]
    given = dialect(system, channels=1)
    check_unequal_vector(given, expected.weighting, expected.running_var)
