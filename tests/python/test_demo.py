"""Test that the demo runs, shows its progress, and leaves no process when a rank fails."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import torch

import syncnorm.demo
from syncnorm.demo import ranks
from syncnorm.demo.config import DemoConfig, parse_args
from syncnorm.demo.data import Digits, batches, load_digits, shard
from syncnorm.demo.differences import largest_differences
from syncnorm.demo.network import build_network
from syncnorm.demo.ranks import RankFailure, run_ranks
from syncnorm.demo.run_plan import plan_runs

STEPS = 8


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run a short demo; return its stdout and its folder."""
    folder = tmp_path_factory.mktemp("demo") / "results"
    arguments = ["--ranks", "2", "--steps", str(STEPS), "--output", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "syncnorm", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_shows_progress_table_and_paths(demo: tuple[str, Path]) -> None:
    text, folder = demo
    for title in ("local BatchNorm, 2 ranks", "syncnorm, 2 ranks", "single process, batch 4"):
        progress = [line for line in text.splitlines() if line.startswith(title) and "step" in line]
        assert any(f"{STEPS}/{STEPS}" in line and "loss" in line for line in progress)
        table = [line for line in text.splitlines() if line.startswith(title) and "/" not in line]
        assert len(table) == 1
    assert str(folder / "curves.png") in text
    assert str(folder / "results.json") in text


def test_writes_curves_and_numbers(demo: tuple[str, Path]) -> None:
    _, folder = demo
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "results.json").read_text())
    assert results["settings"]["ranks"] == 2
    assert {"cpu", "cores", "isa", "date", "torch", "syncnorm"} <= results["machine"].keys()
    names = [run["run"] for run in results["runs"]]
    assert names == ["local", "syncnorm", "syncnorm64", "single", "single64"]
    for run in results["runs"]:
        assert run["points"][-1]["step"] == STEPS
        assert all(0 <= point["accuracy"] <= 1 for point in run["points"])


def test_syncnorm_trains_like_the_single_process(demo: tuple[str, Path]) -> None:
    results = json.loads((demo[1] / "results.json").read_text())
    differences = {(d["dtype"], d["step"]): d for d in results["differences"]}
    assert differences.keys() == {(t, s) for t in ("float32", "float64") for s in (5, STEPS)}
    for dtype, bound in (("float32", 1e-4), ("float64", 1e-10)):
        early = differences[dtype, 5]
        assert early["parameters"] < bound
        assert early["statistics"] < bound


def test_local_batch_norm_trains_differently(demo: tuple[str, Path]) -> None:
    """Otherwise the comparison would show nothing."""
    results = json.loads((demo[1] / "results.json").read_text())
    loss = {run["run"]: run["points"][-1]["loss"] for run in results["runs"]}
    assert abs(loss["syncnorm"] - loss["single"]) < 1e-3 < abs(loss["local"] - loss["single"])


# ------------------------------------------------------------- ranks that fail, die or time out


def make_config(folder: Path, timeout: float = 60.0) -> DemoConfig:
    return parse_args(
        ["--ranks", "2", "--device", "cpu", "--timeout", str(timeout), "--output", str(folder)]
    )


def no_digits() -> Digits:
    return Digits(
        np.zeros((4, 1, 8, 8)), np.zeros(4, "i8"), np.zeros((1, 1, 8, 8)), np.zeros(1, "i8")
    )


def sleeps(*_: Any) -> None:
    time.sleep(600)


def dies_in_rank_1(rank: int, *_: Any) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


@pytest.mark.parametrize(
    ("run_rank", "timeout", "error"),
    [
        (dies_in_rank_1, 60.0, "rank 1 failed:\nthe process ended with signal SIGKILL"),
        (sleeps, 2.0, r"got no message from ranks \[0, 1\] for 2 s; .*--timeout"),
    ],
)
def test_a_lost_rank_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_rank: Any, timeout: float, error: str
) -> None:
    monkeypatch.setattr(ranks, "run_rank", run_rank)
    with pytest.raises(RankFailure, match=error):
        list(run_ranks(make_config(tmp_path, timeout), no_digits()))
    assert multiprocessing.active_children() == []


def test_a_rank_that_dies_at_startup_ends_the_demo(tmp_path: Path) -> None:
    resource_tracker.ensure_running()
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(RankFailure, match="the process ended with exit code 1"):
            list(run_ranks(make_config(tmp_path), load_digits(seed=0)))
    finally:
        multiprocessing.set_executable(sys.executable)
    assert multiprocessing.active_children() == []


def test_the_traceback_of_a_rank_reaches_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    digits = Digits(
        np.zeros((8, 1, 3, 3)), np.zeros(8, "i8"), np.zeros((1, 1, 3, 3)), np.zeros(1, "i8")
    )
    monkeypatch.setattr("syncnorm.demo.command.load_digits", lambda _: digits)
    code = syncnorm.demo.main(["--ranks", "2", "--steps", "2", "--output", str(tmp_path)])
    error = capfd.readouterr().err
    assert code == 1
    assert "Traceback" in error
    assert "mat1 and mat2 shapes cannot be multiplied" in error
    assert multiprocessing.active_children() == []


# --------------------------------------------------------------------------------------- units


def test_missing_packages_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        syncnorm.demo, "_NEEDED", {"torch": "torch", "no_such_module": "such-package"}
    )
    assert syncnorm.demo.main([]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "such-package is not installed" in error
    assert "python -m pip install such-package" in error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--ranks", "1"], "--ranks is 1, expected at least 2 ranks"),
        (["--batch-per-rank", "1"], "--batch-per-rank is 1, expected at least 2 samples"),
        (["--steps", "0"], "--steps: got 0, expected a positive number"),
        (["--timeout", "0"], "--timeout: got 0, expected a positive number of seconds"),
        (["--steps", "5", "--epochs", "2"], "not allowed with"),
        (["--ranks", "1000", "--device", "cuda"], "every rank needs its own GPU"),
    ],
)
def test_invalid_arguments_are_named(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_args(arguments)
    assert exit_.value.code == 2
    assert error in capsys.readouterr().err


def test_states_with_different_names_are_rejected() -> None:
    weight = {"weight": torch.ones(2)}
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"\['bias'\] are in one of them only"):
        largest_differences(weight, {**weight, "bias": torch.ones(2)})


def test_single_process_runs_are_last(tmp_path: Path) -> None:
    """The other ranks exit before them."""
    order = [run.single for run in plan_runs(make_config(tmp_path), 100)]
    assert order == sorted(order)


def test_every_epoch_has_each_sample_at_most_once_and_shards_divide_a_batch() -> None:
    samples, batch = 10, 4
    taken = list(batches(samples, batch, steps=5, seed=3))
    assert len(taken) == 5
    for first, second in ((taken[0], taken[1]), (taken[2], taken[3])):
        epoch = np.concatenate([first, second])
        assert len(set(epoch.tolist())) == 2 * batch
        assert epoch.max() < samples
    joined = np.concatenate([shard(taken[0], rank, 2) for rank in range(2)])
    np.testing.assert_array_equal(joined, taken[0])


def test_digits_are_split_by_class() -> None:
    digits = load_digits(seed=0)
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert digits.train_images.shape[1:] == (1, 8, 8)
    assert np.bincount(digits.test_labels).min() >= 30


def test_all_runs_start_from_the_same_parameters() -> None:
    cpu = torch.device("cpu")
    plain = build_network("torch", 5, torch.float32, cpu).state_dict()
    synchronized = build_network("syncnorm", 5, torch.float64, cpu).state_dict()
    assert plain.keys() == synchronized.keys()
    for name, value in plain.items():
        assert torch.equal(value.double(), synchronized[name].double()), name
