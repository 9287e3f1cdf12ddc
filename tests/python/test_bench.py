"""The benchmark runs and its results have the right structure. No timing is asserted."""

from __future__ import annotations

import itertools
import json
import os
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
from syncnorm.bench import allocator, measure, ways
from syncnorm.bench.accuracy import Exact
from syncnorm.bench.cases import OPERATIONS, Case, all_cases, make_inputs
from syncnorm.bench.report import geometric_mean
from syncnorm.bench.settings import parse
from syncnorm.bench.subjects import syncnorm_subject
from syncnorm.bench.ways import COMPUTATION, all_ways

TINY = ["--shapes", "4x3x5x5,6x4", "--threads", "1", "--repeat", "2", "--quick"]
POINTS = 2 * 2 + 2  # dtypes x layouts, and the dtypes of the shape that has but one layout


# By path; between them they have both settings of the allocator.
ARGUMENTS = {"layer": [], "phases": ["--path", "phases", "--default-malloc"]}

Run = tuple[str, dict[str, Any]]  # what was printed, results.json


def run_bench(folder: Path, arguments: list[str]) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "syncnorm", "bench", *TINY, "--output", str(folder), *arguments],
        env={name: value for name, value in os.environ.items() if name not in allocator.REUSE},
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
    assert overhead["forward"].keys() == overhead["both"].keys() >= {COMPUTATION}
    for name, seconds in overhead["forward"].items():
        assert min(seconds, overhead["both"][name]) > 0
        assert name in text
    assert "geometric mean" in text


@pytest.mark.parametrize("path", ["layer", "phases"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_what_is_timed_is_right(path: str, dtype: str, bound: float, layout: str) -> None:
    inputs = make_inputs(Case((4, 3, 5, 5), dtype, layout))
    errors = Exact(inputs).errors_of(syncnorm_subject(inputs, path))
    assert max(errors.y, errors.dx, errors.dweight, errors.dbias) < bound


@pytest.mark.parametrize("path", ["layer", "phases"])
def test_joint_operation_gives_the_same_gradients(path: str) -> None:
    inputs = make_inputs(Case((4, 3, 5, 5), "float32", "channels_first"))
    subject = syncnorm_subject(inputs, path)
    subject.begin_backward()
    for apart, joint in zip(subject.backward(), subject.both(), strict=True):
        assert torch.equal(apart, joint)


@pytest.mark.skipif(not allocator.has_glibc(), reason="the variables are glibc's")
def test_states_the_allocator_setting(runs: dict[str, Run]) -> None:
    for path, setting in (
        ("layer", "glibc reuse (MALLOC_MMAP_THRESHOLD_="),
        ("phases", "glibc default"),
    ):
        text, results = runs[path]
        assert results["allocator"].startswith(setting)
        assert results["allocator"] in text


def test_all_ways_into_the_library_compute_the_same() -> None:
    expected = next(way.both() for way in all_ways() if way.name == "torch.nn.BatchNorm2d")
    for way in all_ways():
        way.forward()
        np.testing.assert_allclose(way.both(), expected, rtol=1e-5, atol=1e-5, err_msg=way.name)


@pytest.mark.parametrize("jax", ["installed", "missing"])
def test_jax_has_a_row_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, jax: str) -> None:
    if jax == "missing":
        monkeypatch.setattr(ways, "find_spec", {}.get)
    else:
        pytest.importorskip("jax")
    names = [way.name for way in all_ways()]
    assert ("syncnorm.jax, compiled" in names) == (jax == "installed")


def test_rounds_alternate_and_the_ratio_is_that_of_the_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine that becomes slower from call to call the order must not matter."""
    clock, called = [0.0], []

    def call(name: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            called.append(name)
            clock[0] += seconds

        return work

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    timing = measure.interleaved(call("torch", 2.0), call("ours", 1.0), repeat=4)
    assert called[4:] == ["torch", "ours", "ours", "torch"] * 2
    assert (timing.torch, timing.ours, timing.ratio) == (2.0, 1.0, 0.5)


def test_short_calls_are_repeated_within_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ticks) * 1e-3)
    calls = [0]

    def call() -> None:
        calls[0] += 1

    measure.interleaved(call, call, repeat=1)
    per_sample = round(measure._SHORTEST_SAMPLE / 1e-3)
    assert calls[0] == 2 * 2 + 2 * per_sample


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
    [["--shapes", "4"], ["--shapes", "4x0"], ["--layouts", "CNHW"], ["--dtypes", "int8"]],
)
def test_refuses_what_it_cannot_measure(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(arguments)
    assert exit_.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_missing_packages_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(syncnorm.bench, "_NEEDED", {"no_such_module": "such-package"})
    assert syncnorm.bench.main([]) == 1
    assert "python -m pip install such-package" in capsys.readouterr().err
