"""Cases that every way onto a device runs: all dtypes, layouts and what has a path of its own."""

from __future__ import annotations

from support.cases import simple_case

CASES = {
    "float32": simple_case(batches=(3, 2), channels=5),
    "float16": simple_case("float16", batches=(3, 2), layout="last", residual=True),
    "bfloat16": simple_case("bfloat16", batches=(2, 3), masked="some", activation="relu"),
    "float64, centred": simple_case("float64", batches=(3, 1), ratio=1e6),
    "a residual and an activation": simple_case(
        batches=(3, 2), layout="last", residual=True, activation="leaky_relu"
    ),
    "equal weights, means of gradients": simple_case(
        batches=(3, 2), weighting="equal", variance_factor="unbiased_rank", grad_reduction="mean"
    ),
    "an empty rank": simple_case(batches=(0, 4), weighting="batch"),
    "no values at all": simple_case(batches=(0, 0)),
    "no values, average": simple_case(batches=(0, 0), momentum=None),
    "one rank": simple_case(batches=(4,), eps_mode="max"),
    "one rank, average": simple_case(batches=(4,), eps_mode="max", momentum=None),
    "in place": simple_case(batches=(3, 2), activation="elu", in_place=True),
    "sums of gradients": simple_case(batches=(3, 2), grad_reduction="sum"),
}
