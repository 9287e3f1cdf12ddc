"""The factors of the correctness matrix and the case that a row of them stands for."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

import numpy as np

from support.cases import Case, can_carry, channel_vector, make_shard
from support.pairwise import Row

PRINCIPAL = {
    "dtype": ("float16", "bfloat16", "float32", "float64"),
    "layout": ("first", "last"),
    "channels": (1, 3, 7, 64, 65, 96, 100, 130, 1000),
    "weighting": ("count", "equal", "batch"),
    "shards": ("equal", "unequal", "empty-rank", "all-empty", "single-value", "alone"),
    "ratio": (0.0, 1.0, 1e2, 1e4, 1e6),
    "masked": ("none", "some", "rank-without"),
    "residual": (False, True),
    "activation": ("identity", "relu", "leaky_relu", "elu"),
}
FURTHER = {
    "spatial": ("none", "7x7", "large", "odd", "prime", "rank 5"),
    "eps_mode": ("add", "max"),
    "eps": (1e-5, 0.5),
    "variance_factor": ("unbiased", "biased", "unbiased_local", "unbiased_rank"),
    "grad_reduction": ("local", "sum", "mean"),
    "centering": ("auto", "on", "off"),
    "momentum": (0.1, 0.0, 1.0, None),
    "affine": ("both", "weight", "bias", "neither"),
    "parameters": ("arithmetic", "same", "mixed"),
    "running": (True, False),
    "threads": (1, 2, 3),
    "in_place": ("no", "y over x", "y beside x"),
}
FACTORS = {**PRINCIPAL, **FURTHER}

# With running statistics in use.
FROZEN_FACTORS = {
    name: FACTORS[name]
    for name in (
        "dtype", "layout", "channels", "ratio", "residual", "activation", "spatial", "eps_mode",
        "eps", "affine", "parameters", "threads", "in_place",
    )
} | {"shards": ("alone", "empty-rank")}  # fmt: skip
FIXED_WHEN_FROZEN = {
    "weighting": "count",
    "masked": "none",
    "variance_factor": "unbiased",
    "grad_reduction": "local",
    "centering": "auto",
    "momentum": 0.1,
    "running": True,
}

BATCHES = {
    "equal": (2, 2),
    "unequal": (3, 1, 2),
    "empty-rank": (2, 0, 1),
    "all-empty": (0, 0),
    "single-value": (1, 1, 1),
    "alone": (5,),
    "four": (2, 2, 2, 2),  # for those whose ranks are of one size
}
VALUES = 60_000  # of x over all ranks at most: keeps a case near 50 ms


def allowed(row: Row) -> bool:
    """Pairs that cannot be: a dtype that cannot carry the ratio, and what cannot be done in place.
    Accepts partial rows."""
    if "dtype" in row and "ratio" in row and not can_carry(row["dtype"], row["ratio"]):
        return False
    lost = row.get("residual", False) or row.get("activation") == "relu"
    return row.get("in_place", "no") == "no" or not lost


def row_name(row: Row) -> str:
    return "-".join(str(value) for value in row.values())


def spatial_shape(kind: str, channels: int, samples: int) -> tuple[int, ...]:
    room = max(VALUES // (channels * max(samples, 1)), 4)
    side = min(112, int(np.sqrt(room)))
    return {
        "none": (),
        "7x7": (7, 7),
        "large": (side, side),
        "odd": (3, 5),
        "prime": (13,) if channels > 100 else (1009 if room > 1009 else 101,),
        "rank 5": (2, 3, 4),
    }[kind]


def parameter_dtypes(row: Row) -> tuple[str, ...]:
    """Of weight, bias, running_mean, running_var."""
    if row["dtype"] == "float64":
        mixed = ("float32", "float64", "float64", "float32")
        return {"arithmetic": ("float64",) * 4, "same": ("float32",) * 4, "mixed": mixed}[
            row["parameters"]
        ]
    # float16 ends at 65504: it cannot hold the running mean of such data.
    small = "float16" if row["ratio"] <= 1e3 else "float32"
    mixed = ("bfloat16", "float32", small, "bfloat16")
    same = (row["dtype"],) * 4
    return {"arithmetic": ("float32",) * 4, "same": same, "mixed": mixed}[row["parameters"]]


def build(row: Row) -> Case:
    """The case of a row; the same row gives the same data on every machine."""
    generator = np.random.default_rng(zlib.crc32(row_name(row).encode()))
    batches = BATCHES[row["shards"]]
    spatial = spatial_shape(row["spatial"], row["channels"], sum(batches))
    if row["shards"] == "single-value":
        spatial = (1,) * len(spatial)
    masks = {"none": ["none"], "some": ["some"], "rank-without": ["all", "some"]}[row["masked"]]
    shards = [
        make_shard(
            generator,
            (n, row["channels"], *spatial),
            row["dtype"],
            ratio=row["ratio"],
            masked=masks[min(d, len(masks) - 1)],
            residual=row["residual"],
        )
        for d, n in enumerate(batches)
    ]
    weight, bias, mean, var = (
        channel_vector(generator, row["channels"], dtype, kind)
        for dtype, kind in zip(
            parameter_dtypes(row), ("gamma", "any", "any", "positive"), strict=True
        )
    )
    running = row["running"]
    names = ("weighting", "eps_mode", "eps", "variance_factor", "grad_reduction", "centering")
    options = {name: row[name] for name in (*names, "activation", "momentum")}
    return Case(
        dtype=row["dtype"],
        channels=row["channels"],
        shards=shards,
        layout=row["layout"],
        weight=weight if row["affine"] in ("both", "weight") else None,
        bias=bias if row["affine"] in ("both", "bias") else None,
        running_mean=mean if running else None,
        running_var=var if running else None,
        batches=2 if running else None,
        given=options | {"in_place": row["in_place"] != "no"},
        overwrite=row["in_place"] == "y over x",
    )


def full_product(dtype: str, layout: str, channels: int) -> Iterator[Row]:
    """All principal factors for these three; the further ones cycle through their values."""
    fixed = {"dtype": (dtype,), "layout": (layout,), "channels": (channels,)}
    factors = {**PRINCIPAL, **fixed}
    # Co-prime strides, so that neighbouring rows differ in several further factors.
    strides = (1, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    for i, values in enumerate(itertools.product(*factors.values())):
        row = dict(zip(factors, values, strict=True))
        for stride, (name, choices) in zip(strides, FURTHER.items(), strict=True):
            row[name] = choices[(i + i // stride) % len(choices)]
        if not allowed(row):
            row["in_place"] = "no"
        if allowed(row):
            yield row
