"""Test that the benchmark runs and that its results are complete. No timing is asserted."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import numpy as np
import torch

import syncnorm.bench
from syncnorm.bench import allocator, overhead, timing
from syncnorm.bench.accuracy import Float64Reference
from syncnorm.bench.cases import OPERATIONS, TINY_SHAPE, Case, all_cases, make_inputs
from syncnorm.bench.config import parse_args
from syncnorm.bench.overhead import BASELINE, CORE, EMPTY_FUNCTION, overhead_cases
from syncnorm.bench.report import overhead_table
from syncnorm.bench.results import geometric_mean
from syncnorm.bench.subjects import syncnorm_subject
from syncnorm.bench.timing import Rounds, time_rounds, time_short_calls

TINY = ["--shapes", "4x3x5x5,6x4", "--threads", "1", "--repeat", "2", "--quick"]
POINTS = 2 * 2 + 2  # dtypes x layouts, and the dtypes of the 2-D shape

# By path; together they cover both allocator settings.
ARGUMENTS = {"layer": [], "phases": ["--path", "phases", "--default-malloc"]}

Run = tuple[str, dict[str, Any]]  # stdout, results.json


def run_bench(folder: Path, arguments: list[str]) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "syncnorm", "bench", *TINY, "--output", str(folder), *arguments],
        env={
            name: value
            for name, value in os.environ.items()
            if name not in allocator.REUSE_VARIABLES
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert str(folder / "results.json") in done.stdout
    return done.stdout, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module", name="runs")
def run_both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {path: run_bench(tmp_path_factory.mktemp(path), ARGUMENTS[path]) for path in ARGUMENTS}


@pytest.mark.parametrize("path", ARGUMENTS)
def test_measures_every_point(runs: dict[str, Run], path: str) -> None:
    text, results = runs[path]
    assert results["settings"]["path"] == path
    assert {"cpu", "cores", "isa", "date", "torch", "syncnorm"} <= results["machine"].keys()
    assert len(results["points"]) == POINTS
    for point in results["points"]:
        assert point["name"] in text
        assert point["operations"].keys() == set(OPERATIONS)
        for operation in point["operations"].values():
            assert min(*operation["timing"].values(), operation["copy_fraction"]) > 0
    assert results["geometric_mean_ratio"].keys() == set(OPERATIONS)
    overhead = results["overhead"]
    columns = [overhead[name] for name in ("forward", "both", "forward_ratio", "both_ratio")]
    for column in columns:
        assert column.keys() == columns[0].keys() >= {CORE, EMPTY_FUNCTION, BASELINE}
        assert min(column.values()) > 0
    for name in columns[0]:
        assert name in text
    assert overhead["forward_ratio"][BASELINE] == overhead["both_ratio"][BASELINE] == 1
    assert "geometric mean" in text


@pytest.mark.parametrize("path", ["layer", "phases"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_timed_computation_is_correct(path: str, dtype: str, bound: float, layout: str) -> None:
    inputs = make_inputs(Case((4, 3, 5, 5), dtype, layout))
    errors = Float64Reference(inputs).errors_of(syncnorm_subject(inputs, path))
    assert max(errors.y, errors.dx, errors.dweight, errors.dbias) < bound


@pytest.mark.parametrize("path", ["layer", "phases"])
def test_forward_backward_returns_the_same_gradients(path: str) -> None:
    inputs = make_inputs(Case((4, 3, 5, 5), "float32", "channels_first"))
    subject = syncnorm_subject(inputs, path)
    subject.prepare_backward()
    separate, joint = subject.backward(), subject.forward_backward()
    for expected, got in zip(separate, joint, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.skipif(not allocator.has_glibc(), reason="the variables are glibc's")
def test_states_the_allocator_setting(runs: dict[str, Run]) -> None:
    for path, setting in (
        ("layer", "glibc reuse (MALLOC_MMAP_THRESHOLD_="),
        ("phases", "glibc default"),
    ):
        text, results = runs[path]
        assert results["allocator"].startswith(setting)
        assert results["allocator"] in text


def test_all_overhead_cases_compute_the_same() -> None:
    cases = {case.name: case for case in overhead_cases()}
    del cases[EMPTY_FUNCTION]
    expected = cases[BASELINE].forward_backward()
    for name, case in cases.items():
        case.forward()
        got = case.forward_backward()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_empty_function_saves_its_inputs_and_returns_their_gradients() -> None:
    (case,) = (case for case in overhead_cases() if case.name == EMPTY_FUNCTION)
    y: Any = case.forward()
    assert [tensor.shape for tensor in y.grad_fn.saved_tensors] == [TINY_SHAPE, (8,), (8,)]
    assert case.forward_backward().shape == TINY_SHAPE


def test_the_overhead_table_has_times_and_ratios() -> None:
    table = overhead_table(
        {
            "forward": Rounds({BASELINE: [2e-6, 2e-6], "ours": [3e-6, 3e-6]}),
            "forward+backward": Rounds({BASELINE: [4e-6, 4e-6], "ours": [2e-6, 2e-6]}),
        }
    )
    assert [line.split() for line in table[2:]] == [
        [BASELINE, "2.0", "4.0", "1.00", "1.00"],
        ["ours", "3.0", "2.0", "1.50", "0.50"],
    ]


@pytest.mark.parametrize("jax", ["installed", "missing"])
def test_jax_has_a_row_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, jax: str) -> None:
    if jax == "missing":
        monkeypatch.setattr(overhead, "find_spec", {}.get)
    else:
        pytest.importorskip("jax")
    names = [case.name for case in overhead_cases()]
    assert ("syncnorm.jax, compiled" in names) == (jax == "installed")


class Clock:
    """A clock that advances only by calls; records their names."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called: list[str] = []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            self.called.append(name)
            self.now += seconds

        return work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


CALIBRATION = 4  # calls that determine the number of calls per sample


def test_every_second_round_reverses_the_order(clock: Clock) -> None:
    """On a machine that becomes slower from call to call, the order must not matter."""
    calls = {name: clock.call(name, 1.0) for name in "abc"}
    rounds = time_rounds(calls, repeat=20)
    measured = clock.called[CALIBRATION * len(calls) :]
    orders = ["".join(measured[start : start + 3]) for start in range(0, len(measured), 3)]
    assert len(orders) == 20
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert [order[::-1] for order in orders[0::2]] == orders[1::2]
    assert len(set(orders)) > 2  # not always the same two
    assert {len(seconds) for seconds in rounds.seconds.values()} == {20}


def test_the_ratio_is_the_median_of_the_ratios_of_the_rounds(clock: Clock) -> None:
    calls = {"torch": clock.call("torch", 2.0), "ours": clock.call("ours", 1.0)}
    rounds = time_rounds(calls, repeat=4)
    assert rounds.medians() == {"torch": 2.0, "ours": 1.0}
    assert rounds.ratios("torch") == {"torch": 1.0, "ours": 0.5}
    load = Rounds({"torch": [2.0, 20.0, 2.0], "ours": [1.0, 10.0, 100.0]})
    assert load.ratios("torch")["ours"] == 0.5


def test_short_calls_are_repeated_within_a_sample(clock: Clock) -> None:
    time_rounds({"call": clock.call("call", 1e-3)}, repeat=1)
    assert len(clock.called) == CALIBRATION + round(timing.SAMPLE_SECONDS / 1e-3)


def test_one_slow_call_does_not_shorten_the_samples(clock: Clock) -> None:
    seconds = itertools.chain([1.0, 1e-3, 1.0], itertools.repeat(1e-3))

    def call() -> None:
        clock.call("call", next(seconds))()

    time_rounds({"call": call}, repeat=1)
    assert len(clock.called) == CALIBRATION + round(timing.SAMPLE_SECONDS / 1e-3)


def test_very_short_calls_get_more_rounds_of_shorter_samples(clock: Clock) -> None:
    rounds = time_short_calls({"call": clock.call("call", 1e-3)}, repeat=5)
    assert len(rounds.seconds["call"]) > 5
    per_round = (len(clock.called) - CALIBRATION) / len(rounds.seconds["call"])
    assert 1 < per_round < timing.SAMPLE_SECONDS / 1e-3


def test_ranks_agree_on_the_number_of_calls(clock: Clock) -> None:
    barriers: list[float] = []
    rounds = time_rounds(
        {"call": clock.call("call", 1e-3)},
        repeat=3,
        barrier=lambda: barriers.append(clock.now),
        agree=lambda count: count + 1,
    )
    assert len(barriers) == len(rounds.seconds["call"]) == 3
    assert len(clock.called) == CALIBRATION + 3 * (round(timing.SAMPLE_SECONDS / 1e-3) + 1)


def test_two_dimensional_input_has_one_layout() -> None:
    names = [case.name for case in all_cases([(6, 4), (2, 3, 4)], ["float32"], ["channels_last"])]
    assert names == ["6x4 float32 NC", "2x3x4 float32 NLC"]


def test_inputs_have_the_layout_of_their_case() -> None:
    inputs = make_inputs(Case((2, 3, 4, 5), "bfloat16", "channels_last"))
    for tensor in (inputs.x, inputs.dy):
        assert tensor.shape == (2, 3, 4, 5)
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_geometric_mean() -> None:
    assert geometric_mean([0.25, 1.0, 4.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shapes", "4"],
        ["--shapes", "4x0"],
        ["--shapes", "4xN"],
        ["--layouts", "CNHW"],
        ["--dtypes", "int8"],
    ],
)
def test_invalid_arguments_are_named(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_args(arguments)
    assert exit_.value.code == 2
    option, value = arguments
    assert re.search(f"{option}: invalid .* '{value}', expected", capsys.readouterr().err)


def test_missing_packages_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(syncnorm.bench, "_NEEDED", {"no_such_module": "such-package"})
    assert syncnorm.bench.main([]) == 1
    assert "python -m pip install such-package" in capsys.readouterr().err
