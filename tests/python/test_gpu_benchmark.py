"""The GPU benchmark's cases, subjects and targets; tests/python/house/test_gpu_check.py runs it."""

from __future__ import annotations

import functools
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import (  # noqa: E402
    cases,
    clock,
    model,
    phases,
    points,
    rehearsal,
    subjects,
    targets,
)
from benchmarks.gpu.cases import OPERATIONS, PASSES, Case  # noqa: E402
from benchmarks.gpu.points import COMPILED, Point  # noqa: E402


def point(case: Case, operation: str = "forward", cache: str = "cold", **seconds: float) -> Point:
    """A copy moves 1 byte a second; what is not said takes as long as 3 copies of x forward."""
    usual = cases.PASSES[operation] * case.nbytes
    names = ("phases", "one call", "torch kernels", "F.batch_norm")
    given = {name: seconds.get(name.replace(" ", "_").lower(), 1.0) * usual for name in names}
    return Point(case, operation, cache, given, copy_bandwidth=1.0)


LAYER = Case("resnet50-32", (32, 64, 56, 56), "float32", "channels_first", times=6)
TINY = Case("tiny", (4, 3, 5), "float32", "channels_first")
LARGE = Case("large", (128, 256, 56, 56), "float16", "channels_first")


def test_resnet50_has_its_53_layers():
    assert sum(cases.RESNET50.values()) == 53
    names = [case.name for case in cases.all_cases(["resnet50-32"], cases.DTYPES, cases.LAYOUTS)]
    assert len(names) == len(set(names)) == 12 * 3 * 2


def test_large_tensors_are_large_in_every_dtype():
    for case in cases.all_cases(["large"], cases.DTYPES, cases.LAYOUTS):
        assert case.nbytes >= targets.LARGE_BYTES


def test_bandwidth_counts_the_passes_that_ranks_need():
    assert point(LAYER).copy_fraction("phases") == 1
    assert point(LAYER, "backward").bandwidth("phases") == 1
    assert point(LAYER, phases=2).copy_fraction("phases") == 0.5


def test_means_are_geometric_and_count_each_layer():
    other = Case("resnet50-32", (32, 256, 56, 56), "float32", "channels_first", times=2)
    chosen = [point(LAYER, torch_kernels=2), point(other, torch_kernels=32)]
    assert targets.mean_speedup(chosen, "phases", "torch kernels") == pytest.approx(4)


@pytest.mark.parametrize(
    ("found", "reached"),
    [
        (point(LARGE, phases=1 / 0.87), {"bandwidth of the phases": False}),
        (point(LARGE, phases=1 / 0.89), {"bandwidth of the phases": True}),
        (
            point(LAYER, torch_kernels=2.1),
            {"geometric mean": True, "torch's kernels, ResNet-50, slowest": True},
        ),
        (
            point(LAYER, torch_kernels=1.9),
            {"geometric mean": False, "torch's kernels, ResNet-50, slowest": True},
        ),
        (
            point(LAYER, torch_kernels=0.9),
            {"geometric mean": False, "torch's kernels, ResNet-50, slowest": False},
        ),
        (point(LAYER, one_call=1.1), {"over F.batch_norm": False}),
    ],
)
def test_targets_are_reached_or_not(found, reached):
    told = targets.targets([found])
    for part, expected in reached.items():
        (target,) = [target for target in told if part in target.name]
        assert target.reached == expected, target


def test_the_rehearsed_kernels_are_the_layer():
    inputs = cases.make_inputs(TINY, "cpu")
    points.check_agreement(TINY, subjects.subjects(inputs, rehearsal))


def measured() -> list[Point | phases.PhaseTime]:
    return list(points.measure_case(TINY, "cpu", clock.clock_for("cpu"), 1, 1e9))


def test_every_phase_is_timed_and_moves_its_part_of_the_pass():
    found = [each.phase for each in measured() if isinstance(each, phases.PhaseTime)]
    assert found == [phase for operation in OPERATIONS for phase in phases.PHASES[operation]]
    for operation in OPERATIONS:
        assert PASSES[operation] == sum(map(model.TENSORS.get, phases.PHASES[operation]))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler
def test_compiled_batch_norm_is_added_to_the_points_of_its_case(monkeypatch):
    """With a backend that compiles nothing: tools/gpu_check.sh --dry-run takes the usual one."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    before = [point(LAYER), *(each for each in measured() if isinstance(each, Point))]
    after = points.with_compiled(before, TINY, "cpu", clock.clock_for("cpu"), 2)
    assert [COMPILED in each.seconds for each in after] == [False, *[True] * 4]
    assert [each.key for each in after] == [each.key for each in before]


def test_cases_are_found_by_their_names():
    for case in cases.all_cases(["tiny", "counters"], cases.DTYPES, cases.LAYOUTS):
        found = cases.case_of(case.name)
        assert (found.name, found.nbytes) == (case.name, case.nbytes)


def test_subjects_that_compute_something_else_are_not_timed():
    case = TINY
    compared = subjects.subjects(cases.make_inputs(case, "cpu"), rehearsal)
    y = compared["phases"].forward()

    class Wrong:
        def forward(self) -> torch.Tensor:
            return y * 1.01

        def backward(self) -> torch.Tensor:
            return torch.full_like(y, math.nan)

    with pytest.raises(RuntimeError, match=r"'phases' differs .* by 1\.0e-02"):
        points.check_agreement(case, {**compared, "phases": Wrong()})
