"""Results of the benchmark on a GPU, made up: kept, put together, reported, published; counters."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import __main__ as benchmark  # noqa: E402
from benchmarks.gpu import cases as gpu_cases  # noqa: E402
from benchmarks.gpu import (  # noqa: E402
    counters,
    model,
    phases,
    profiled,
    publish,
    report,
    results,
    run,
    summary,
)
from benchmarks.gpu.cases import LAYOUTS, OPERATIONS, PASSES, Case, all_cases  # noqa: E402
from benchmarks.gpu.counters import KernelCounters  # noqa: E402
from benchmarks.gpu.graphs import GraphTime  # noqa: E402
from benchmarks.gpu.host import HostTime  # noqa: E402
from benchmarks.gpu.model import predicted_seconds  # noqa: E402
from benchmarks.gpu.phases import PhaseTime  # noqa: E402
from benchmarks.gpu.points import CACHES, Point  # noqa: E402
from benchmarks.gpu.results import Results  # noqa: E402
from benchmarks.gpu.training import VARIANTS, Setting, Training  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

FACTS = {"device": "cuda", "gpu": "NVIDIA Made-Up 1", "driver": "1.2", "torch": "2.0", "date": "d"}
COPY = 1e12
RUN = {"date": "d", "parts": ["kernels"], "settings": {}, "seconds": 60.0}


LARGE = Case("large", (128, 256, 56, 56), "float32", "channels_first")
COUNTED = "32x256x56x56 bfloat16 NHWC"


def kernels() -> Results:
    """The phases at half of the copy's bandwidth, all others in as much time and a half."""
    points = []
    shapes = [*gpu_cases.resnet50(32), (128, 256, 56, 56)]
    for number, shape in enumerate(shapes):
        group = "resnet50-32" if number < len(shapes) - 1 else "large"
        case = Case(group, shape, "float32", "channels_first")
        for cache, operation in itertools.product(CACHES, OPERATIONS):
            seconds = 2 * PASSES[operation] * case.nbytes / COPY
            times = {"phases": seconds, "one call": seconds}
            times |= {"torch kernels": 1.5 * seconds, "F.batch_norm": 1.5 * seconds}
            points.append(Point(case, operation, cache, times, COPY))
    phase_times = [PhaseTime(LARGE, phase, 2e-3, COPY) for phase in model.TENSORS]
    return Results(FACTS, [RUN], COPY, points, phase_times)


def others() -> Results:
    setting = Setting(32, "bfloat16 autocast", "channels_last")
    trainings = [Training(setting, name, [0.03, 0.02, 0.025], 4 << 30, 7.0) for name in VARIANTS]
    trainings[-1] = Training(setting, trainings[-1].variant, error="out of memory")
    return Results(
        {**FACTS, "date": "e"},
        [{**RUN, "parts": ["training"]}],
        host=[HostTime("forward", "busy", {"syncnorm": 2e-5, "torch.nn.SyncBatchNorm": None})],
        graphs=[GraphTime("x", "syncnorm", 4e-5, 2e-5), GraphTime("x", "torch", 1e-4, error="no")],
        training=trainings,
        counters=[
            KernelCounters(COUNTED, "phases", "forward", 0, "moments_kernel", 100, 1e-6, 2e5, 3e5)
        ],
    )


def test_results_are_read_as_they_were_written(tmp_path):
    whole = results.together(kernels(), others())
    results.write_json(whole, tmp_path / "benchmark.json")
    assert results.read(tmp_path / "benchmark.json") == whole
    (tmp_path / "check.json").write_text(json.dumps({"benchmark": results.document(whole)}))
    assert results.read(tmp_path / "check.json") == whole


def test_of_two_measurements_the_later_is_kept():
    later = Results(FACTS, graphs=[GraphTime("x", "syncnorm", 5e-5, 1e-5)])
    found = results.together(others(), later).graphs
    assert [(each.layer, each.replay) for each in found] == [("syncnorm", 1e-5), ("torch", None)]


def test_results_of_different_versions_are_not_put_together():
    with pytest.raises(ValueError, match=r"torch is '2\.0' and '2\.1'"):
        results.together(kernels(), Results({**FACTS, "torch": "2.1"}))


def test_the_report_has_a_table_of_everything():
    text = report.markdown(results.together(kernels(), others()))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    shape = "32x64x112x112 float32 NCHW"
    unknown = "3000.00 | 500 | 50 | - | - | - x - | - of - |"
    for row in (
        f"| {shape} | cold | forward | 616.6 | 616.6 | 924.8 | 924.8 | - | 500 | 50 | 50 |",
        f"| {LARGE.name} | grad_input | 2000.0 | 617 | 62 | 1235.1 | 1.62 |",
        "| torch.nn.SyncBatchNorm | waits for the device |",
        "| x | syncnorm | 40.0 | 20.0 | 2.00 |",
        "| x | torch | 100.0 | none: no | - |",
        "| 32 images, bfloat16 autocast, NHWC | syncnorm | 25.00 | 20.00 | 30.00 | 4.29 |",
        f"| {COUNTED} | phases | forward | `moments_kernel` | 1.0 | 56.7 | 2000.00 | {unknown}",
    ):
        assert row in rows
    assert "none: out of memory" in text
    assert "## Counters" not in report.markdown(kernels())


def test_the_model_is_bytes_and_the_way_of_sums():
    seconds = {phase: predicted_seconds(LARGE, phase, COPY) for phase in model.TENSORS}
    moved = {phase: model.TENSORS[phase] * LARGE.nbytes / COPY for phase in model.TENSORS}
    assert seconds["normalize"] == pytest.approx(moved["normalize"] + model.LAUNCH)
    assert seconds["moments"] > moved["moments"] + model.LAUNCH + model.FOLD + model.TICKET
    fast = 1e15  # then instructions take longer than bytes
    assert predicted_seconds(LARGE, "normalize", fast) > model.LAUNCH + moved["normalize"] / 100


@pytest.mark.parametrize(
    ("operation", "kernel", "phase"),
    [
        ("forward", "moments_kernel", "moments"),
        ("forward", "void syncnorm::cuda::normalize_kernel<float, 4>(...)", "normalize"),
        ("backward", "grad_moments_kernel", "grad_moments"),
        ("backward", "grad_input_kernel", "grad_input"),
        ("backward", "moments_kernel", None),
        ("backward", "spin_kernel", None),
    ],
)
def test_kernels_belong_to_phases(operation, kernel, phase):
    assert phases.phase_of(operation, kernel) == phase


def test_results_are_published(tmp_path, monkeypatch, capsys):
    """Two runs of tools/gpu_check.sh, then the document anew from what was kept."""
    monkeypatch.chdir(tmp_path)
    document = tmp_path / "README.md"
    document.write_text(f"before\n{summary.BEGIN}\nstale tables\n{summary.END}\nafter\n")
    steps = {"verdict": "passed", "verified": True, "machine": {}, "steps": []}
    for name, found in (("first", kernels()), ("second", others())):
        (tmp_path / name).mkdir()
        results.write_json(found, tmp_path / name / "benchmark.json")
        (tmp_path / name / "results.json").write_text(json.dumps(steps))

    def published(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["publish", *arguments, "--markdown", "README.md"])
        assert publish.main() == 0
        return document.read_text()

    text = published("first", "second")
    folder = tmp_path / "benchmarks/results/made-up-1"
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"results.json", "benchmark.md", "benchmark.png", "training.png"}
    assert text.startswith(
        f"before\n{summary.BEGIN}\n\nNVIDIA Made-Up 1; driver 1.2, torch 2.0; d."
    )
    assert text.endswith(f"{summary.END}\nafter\n")
    assert "| float32, NCHW | forward | 1.50, 1.50 | 1.50, 1.50 |" in text
    assert "forward 50 to 50 %, backward 50 to 50 %" in text
    assert "| 32, bfloat16, NHWC | 25.0, 4.29 |" in text
    assert "stale" not in text
    before = (folder / "results.json").read_text()
    assert len(json.loads(before)["checks"]) == 2
    monkeypatch.setattr(publish, "write_reports", lambda *_: None)
    assert published("benchmarks/results/made-up-1/results.json") == text
    assert (folder / "results.json").read_text() == before


def test_a_rehearsal_is_not_published(tmp_path, monkeypatch, capsys):
    found = dataclasses.replace(kernels(), facts={**FACTS, "device": "cpu"})
    results.write_json(found, tmp_path / "benchmark.json")
    monkeypatch.setattr(sys, "argv", ["publish", str(tmp_path), "--output", str(tmp_path / "kept")])
    with pytest.raises(SystemExit):
        publish.main()
    assert "its numbers mean nothing" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()


def test_a_document_without_the_marks_is_refused(tmp_path):
    (tmp_path / "other.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"other\.md: .* put them where .* '<!-- From here on"):
        summary.put_into(tmp_path / "other.md", "table")


# ------------------------------------------------------------------------------------- counters

WIDE = """==PROF== Connected to process 7
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","dram__bytes_write.sum"
"","","ns","byte","Kbyte"
"0","at::cuda::<unnamed>::spin_kernel(long)","900","0","0"
"1","void syncnorm::<unnamed>::moments_of_planes<float, (int)4>(Args)","2,000","1,000","3"
"2","spin_kernel","900","0","0"
"3","void cudnn::bn_fw<2>(Params)","500","n/a","1"
==PROF== Disconnected
"""
LONG = """"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","spin_kernel","gpu__time_duration.sum","usecond","0.9"
"1","moments_of_planes","gpu__time_duration.sum","usecond","2"
"1","moments_of_planes","dram__bytes_read.sum","Kbyte","1"
"1","moments_of_planes","launch__registers_per_thread","register/thread","64"
"""
SEQUENCE = [("case", "phases", "forward", 100), ("case", "F.batch_norm", "forward", 100)]


def test_counters_are_those_of_the_call_before_them():
    found = counters.assigned(counters.read_rows(WIDE.splitlines()), SEQUENCE)
    first, second = found
    assert (first.subject, first.name) == ("phases", "moments_of_planes")
    assert first.seconds == pytest.approx(2e-6)
    assert (first.bytes_read, first.bytes_written) == (1000, 3000)
    assert first.bandwidth == pytest.approx(2e9)
    assert (second.subject, second.name) == ("F.batch_norm", "bn_fw")
    assert (second.bytes_read, second.bandwidth) == (None, None)


def test_the_other_table_of_ncu_is_read_too():
    (found,) = counters.assigned(counters.read_rows(LONG.splitlines()), SEQUENCE[:1])
    assert (found.seconds, found.bytes_read, found.registers) == (2e-6, 1000, 64)


def test_a_table_with_other_calls_is_refused():
    rows = counters.read_rows(WIDE.splitlines())
    with pytest.raises(RuntimeError, match="ncu saw 2 markers, expected 1"):
        counters.assigned(rows, SEQUENCE[:1])
    with pytest.raises(RuntimeError, match="ncu gave no table"):
        counters.read_rows(["==ERROR== nothing"])


def test_without_ncu_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("NCU", raising=False)
    monkeypatch.setattr(counters, "PLACES", ("/nowhere/ncu",))
    with pytest.raises(RuntimeError, match=r"ncu \(Nsight Compute\) was not found"):
        counters.find_ncu()


def test_ncu_is_run_and_its_failure_shown(tmp_path, monkeypatch):
    program = tmp_path / "ncu"
    script = f"""#!{sys.executable}
import json, pathlib, sys
arguments = sys.argv[1:]
value = lambda name: pathlib.Path(arguments[arguments.index(name) + 1])
value("--log-file").write_text({WIDE!r})
value("--sequence").write_text(json.dumps({SEQUENCE!r}))
sys.exit("float16" in arguments)
"""
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("NCU", str(program))
    found = counters.measure_counters(["tiny"], ["float32"], LAYOUTS, tmp_path, 60)
    assert [each.subject for each in found] == ["phases", "F.batch_norm"]
    assert (tmp_path / "counters.csv").read_text() == WIDE
    with pytest.raises(RuntimeError, match="ncu ended with status 1:\n==PROF=="):
        counters.measure_counters(["tiny"], ["float16"], LAYOUTS, tmp_path, 60)


def test_what_runs_under_ncu_lists_its_calls():
    cases = list(all_cases(["tiny"], ["float32"], LAYOUTS[:1]))
    sequence = profiled.run(cases, "cpu")
    assert len(sequence) == len(cases) * 4 * len(OPERATIONS)
    assert sequence[0] == (cases[0].name, "phases", "forward", cases[0].nbytes)
    assert not profiled.run(cases, "cpu", seconds=-1)


def test_a_part_that_fails_is_told_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NCU", "/nowhere/ncu")
    arguments = ["--device", "cpu", "--repeat", "1", "--parts", "counters", "host"]
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments, "--output", str(tmp_path)])
    assert benchmark.main() == 1
    assert "FAILED: counters: FileNotFoundError" in capsys.readouterr().out
    found = results.read(tmp_path / "benchmark.json")
    assert len(found.host) == 4
    assert found.failures
    assert "FAILED: counters" in (tmp_path / "benchmark.md").read_text()


def test_parts_are_added_to_what_is_there_and_not_of_another_machine(tmp_path, monkeypatch):
    arguments = ["--device", "cpu", "--add", "--output", str(tmp_path)]
    for name in ("first", "second"):
        added = run.Run(benchmark.parse(arguments))
        added.results.graphs = [GraphTime("x", name, 1e-4, 1e-4)]
        added.finish()
    found = results.read(tmp_path / "benchmark.json")
    assert [each.layer for each in found.graphs] == ["first", "second"]
    monkeypatch.setattr(run, "facts", lambda _: FACTS)
    with pytest.raises(ValueError, match="not of one machine"):
        run.Run(benchmark.parse(arguments))
    assert results.read(tmp_path / "benchmark.json") == found
