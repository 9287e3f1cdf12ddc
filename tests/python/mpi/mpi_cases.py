"""The problems that ranks over MPI compute: which sizes of shards, and what else may differ."""

from __future__ import annotations

from support.cases import Case, simple_case

# Samples on each rank, by the number of ranks.
SHARDS = {
    2: {"equal": (3, 3), "unequal": (5, 1), "empty": (0, 4), "all empty": (0, 0)},
    4: {"equal": (2, 2, 2, 2), "unequal": (5, 1, 3, 2), "empty": (3, 0, 0, 2)},
}


def cases(size: int) -> dict[str, Case]:
    """float64 is centred: two sums in the forward pass."""
    found = {
        f"{name}, {dtype}": simple_case(dtype, batches, 5, (7,), ratio=100, seed=size)
        for name, batches in SHARDS[size].items()
        for dtype in ("float32", "float64")
    }
    unequal = SHARDS[size]["unequal"]
    return found | {
        # The wires fill the frame to the last value, and are longer.
        "C = 246": simple_case("float32", unequal, 246, (2,)),
        "C = 247": simple_case("float32", unequal, 247, (2,)),
        "C = 1000": simple_case("bfloat16", unequal, 1000, (2,), layout="last"),
        "options": simple_case(
            "float32",
            unequal,
            6,
            (3, 2),
            masked="some",
            residual=True,
            weighting="equal",
            activation="relu",
            grad_reduction="mean",
            momentum=None,
        ),
    }
