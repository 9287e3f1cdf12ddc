"""Strategies for batch normalization problems: data, parameters, options, memory layouts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from support.cases import Case, ShardData, can_carry, channel_vector, make_shard
from support.dtypes import FLOATS, encode

SIZES = st.sampled_from((1, 2, 3, 5, 7, 8, 17))


@dataclass(frozen=True)
class Layout:
    """Where the elements of an array lie: of axes that exist, in this order, with these steps.

    An axis whose step is 0 is broadcast: its values have to be the same.
    """

    order: tuple[int, ...]
    steps: tuple[int, ...]

    def broadcast(self, axis: int) -> Layout:
        """Return this layout with a stride of 0 along one axis."""
        return Layout(self.order, tuple(0 if i == axis else s for i, s in enumerate(self.steps)))

    def place(self, values: np.ndarray) -> np.ndarray:
        """Copy the values into new memory of this layout."""
        one = tuple(slice(0, 1) if step == 0 else slice(None) for step in self.steps)
        kept = values[one].transpose(self.order)
        steps = [self.steps[axis] or 1 for axis in self.order]
        memory = np.zeros([n * abs(s) for n, s in zip(kept.shape, steps, strict=True)], kept.dtype)
        view = memory[tuple(slice(None, None, step) for step in steps)]
        view[...] = kept
        view = view.transpose(np.argsort(self.order))
        strides = [s if n else 0 for s, n in zip(view.strides, self.steps, strict=True)]
        return np.lib.stride_tricks.as_strided(view, values.shape, strides)


def layouts(ndim: int, *, negative: bool) -> st.SearchStrategy[Layout]:
    """Layouts of arrays with this number of axes: dense ones are as frequent as others."""
    dense = (tuple(range(ndim)), (0, *range(2, ndim), 1)[:ndim])
    steps = (1, 1, 1, 2, 3, *((-1, -2) if negative else ()))
    return st.one_of(
        st.sampled_from(dense).map(lambda order: Layout(order, (1,) * ndim)),
        st.builds(
            Layout,
            st.permutations(range(ndim)).map(tuple),
            st.tuples(*[st.sampled_from(steps)] * ndim),
        ),
    )


@dataclass(frozen=True)
class Problem:
    """A case, with the layouts of the data of each rank, by the names of ShardData."""

    case: Case
    layouts: list[dict[str, Layout]]

    def data(self, rank: int, name: str) -> np.ndarray | None:
        """Return an array of a rank in its layout, of the dtype's storage type."""
        values = getattr(self.case.shards[rank], name)
        if values is None:
            return None
        dtype = "uint8" if name == "mask" else self.case.dtype
        return self.layouts[rank][name].place(encode(values, dtype))

    def vector(self, name: str) -> tuple[np.ndarray, str] | None:
        """Return a per-channel array of the storage type of its dtype, and that dtype."""
        vector = getattr(self.case, name)
        return None if vector is None else (encode(vector.values, vector.dtype), vector.dtype)

    def __repr__(self) -> str:
        shards = [
            {name: f"{value.shape}" for name, value in vars(shard).items() if value is not None}
            for shard in self.case.shards
        ]
        vectors = {
            name: value.dtype
            for name in ("weight", "bias", "running_mean", "running_var")
            if (value := getattr(self.case, name)) is not None
        }
        return (
            f"Problem({self.case.dtype}, options={self.case.given}, shards={shards},"
            f" vectors={vectors}, batches={self.case.batches}, layouts={self.layouts})"
        )


def options(*, in_place: bool) -> st.SearchStrategy[dict]:
    activations = ("identity", "leaky_relu", "elu") + (() if in_place else ("relu",))
    return st.fixed_dictionaries(
        {},
        optional={
            "weighting": st.sampled_from(("count", "equal", "batch")),
            "eps_mode": st.sampled_from(("add", "max")),
            "eps": st.sampled_from((1e-5, 1e-3, 0.5)),
            "variance_factor": st.sampled_from(
                ("unbiased", "biased", "unbiased_local", "unbiased_rank")
            ),
            "grad_reduction": st.sampled_from(("local", "sum", "mean")),
            "centering": st.sampled_from(("auto", "on", "off")),
            "momentum": st.sampled_from((0.1, 0.0, 1.0, None)),
            "activation": st.sampled_from(activations),
            "negative_slope": st.sampled_from((0.01, 0.3, 1.5)),
        },
    ).map(lambda given: given | {"in_place": in_place})


def parameter_dtypes(dtype: str) -> st.SearchStrategy[str]:
    return st.sampled_from(("float32", "float64") if dtype == "float64" else FLOATS[:3])


@st.composite
def problems(draw: st.DrawFn, *, ranks: int = 4, negative: bool = True) -> Problem:
    """Problems of up to `ranks` ranks, of which some may be empty.

    Args:
        negative: Strides may be negative.
    """
    dtype, in_place = draw(st.sampled_from(FLOATS)), draw(st.booleans())
    spatial = draw(st.lists(st.one_of(SIZES, st.just(0)), max_size=2)) + draw(
        st.sampled_from(([], [], [3], [2, 1], [2, 3, 1]))
    )
    channels = draw(st.one_of(st.integers(1, 9), st.sampled_from((64, 65, 100))))
    samples = draw(st.lists(st.integers(0, 5), min_size=1, max_size=ranks))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ratio = draw(st.sampled_from([r for r in (0.0, 1.0, 1e2, 1e4) if can_carry(dtype, r)]))
    residual = not in_place and draw(st.booleans())
    masks = draw(st.sampled_from((["none"], ["some"], ["all", "some"], ["some", "all"])))
    if (
        in_place and dtype == "float16"
    ):  # what does not count may overflow y, of which backward reads
        masks = ["none"]
    given = draw(options(in_place=in_place))
    shards, placed = [], []
    for rank, n in enumerate(samples):
        shape = (n, channels, *spatial)
        masked = masks[min(rank, len(masks) - 1)]
        options_of_data = {"ratio": ratio, "masked": masked, "residual": residual}
        shard, layout = draw(
            in_layouts(make_shard(generator, shape, dtype, **options_of_data), negative=negative)
        )
        shards.append(shard)
        placed.append(layout)
    vectors = {}
    for name, kind in (("weight", "gamma"), ("bias", "any")):
        if draw(st.booleans()):
            vectors[name] = channel_vector(generator, channels, draw(parameter_dtypes(dtype)), kind)
    batches = None
    if draw(st.booleans()) or given.get("momentum", 0.1) is None:
        # float16 ends at 65504: it cannot hold the running statistics of such data.
        wide = st.just("float64" if dtype == "float64" else "float32")
        dtypes = parameter_dtypes(dtype) if ratio <= 1e2 else wide
        batches = draw(st.sampled_from((0, 2)))
        for name, kind in (("running_mean", "any"), ("running_var", "positive")):
            vectors[name] = channel_vector(generator, channels, draw(dtypes), kind)
    return Problem(Case(dtype, channels, shards, batches=batches, given=given, **vectors), placed)


@st.composite
def in_layouts(
    draw: st.DrawFn, shard: ShardData, *, negative: bool
) -> tuple[ShardData, dict[str, Layout]]:
    """The shard and a layout for each of its arrays; broadcast axes get equal values."""
    changed, placed = {}, {}
    for name, values in vars(shard).items():
        if values is None:
            continue
        layout = draw(layouts(values.ndim, negative=negative))
        axis = draw(st.integers(0, 3 * values.ndim))
        if axis < values.ndim and name != "mask":
            layout = layout.broadcast(axis)
            if values.size > 0:
                changed[name] = np.repeat(values.take([0], axis), values.shape[axis], axis)
        placed[name] = layout
    return ShardData(**(vars(shard) | changed)), placed
