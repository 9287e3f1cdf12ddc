"""python -m syncnorm run: training scripts that know nothing of syncnorm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_script.py")

REPORT = """
import sys
from torch.nn import SyncBatchNorm

class Defined: ...

is_main = sys.modules["__main__"].Defined is Defined
print(__name__, sys.argv[1:], type(SyncBatchNorm(4)).__module__, is_main)
"""


SPAWNS = """
import importlib.util
import multiprocessing
import subprocess
import sys

def report():
    assert importlib.util.find_spec("torch")  # as libraries ask whether they may import it
    from torch.nn import SyncBatchNorm
    print(type(SyncBatchNorm(4)).__module__, flush=True)

if __name__ == "__main__":
    report()
    for method in ("spawn", "forkserver"):
        child = multiprocessing.get_context(method).Process(target=report)
        child.start()
        child.join()
        assert child.exitcode == 0
    if sys.argv[1:] != ["again"]:  # as launchers do that start the script once for each rank
        subprocess.run([sys.executable, sys.argv[0], "again"], check=True)
"""


def python(
    *arguments: object, cwd: Path, path: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    own = [str(Path(entry).resolve()) for entry in sys.path if entry]
    joined = os.pathsep.join([*path, *own])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": joined,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_torchrun_trains_like_one_process_on_the_joined_batch(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    job = python(*torchrun, "-m", "syncnorm", "run", SCRIPT, "job.pt", cwd=tmp_path)
    assert job.returncode == 0, job.stderr
    alone = python(SCRIPT, "alone.pt", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    expected = torch.load(tmp_path / "alone.pt")
    assert expected["1.num_batches_tracked"] == 4
    torch.testing.assert_close(torch.load(tmp_path / "job.pt"), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", [["folder/report.py"], ["-m", "folder.report"]])
def test_the_target_runs_as_python_would_run_it(tmp_path: Path, target: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/neighbour.py").write_text("")
    importing = "import folder.neighbour" if target[0] == "-m" else "import neighbour"
    (tmp_path / "folder/report.py").write_text(f"{importing}\n{REPORT}")
    arguments = ["--version", "-h", "run", "--", "x"]
    done = python("-m", "syncnorm", "run", *target, *arguments, cwd=tmp_path)
    assert done.stdout == f"__main__ {arguments} syncnorm.torch.layer True\n", done.stderr


def test_the_processes_that_the_script_starts_have_our_layers(tmp_path: Path) -> None:
    (tmp_path / "spawns.py").write_text(SPAWNS)
    done = python("-m", "syncnorm", "run", "spawns.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "syncnorm.torch.layer\n" * 6


@pytest.mark.parametrize("target", [["ends.py"], ["-m", "ends"]])
def test_the_script_is_main_until_python_ends(tmp_path: Path, target: list[str]) -> None:
    (tmp_path / "ends.py").write_text("""
import atexit, inspect, os, pickle, sys, threading, time

class Kept: ...

def late(where):
    assert pickle.loads(pickle.dumps(Kept)) is Kept
    print(where, os.path.isabs(__file__), len(inspect.getsource(late)) > 0)

def wait():
    time.sleep(0.3)
    late("thread")

atexit.register(late, "exit")
threading.Thread(target=wait).start()
os.chdir("/")
""")
    done = python("-m", "syncnorm", "run", *target, cwd=tmp_path)
    assert done.stdout == "thread True True\nexit True True\n", done.stderr


def test_another_interpreter_without_syncnorm_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/torch.py").write_text("")
    # -S: without site-packages.
    (tmp_path / "spawns.py").write_text("""
import os, subprocess, sys
hooks = os.environ["PYTHONPATH"].partition(os.pathsep)[0]
program = "import sitecustomize, torch; print(torch.__file__)"
environment = {"PYTHONPATH": f"{hooks}{os.pathsep}{os.path.abspath('other')}"}
subprocess.run([sys.executable, "-S", "-c", program], env=environment, check=True)
""")
    done = python("-m", "syncnorm", "run", "spawns.py", cwd=tmp_path)
    assert done.stdout == f"{tmp_path / 'other/torch.py'}\n", done.stderr


def test_a_sitecustomize_of_the_user_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.customized = 'by the user'")
    (tmp_path / "spawns.py").write_text("""
import subprocess, sys
subprocess.run([sys.executable, "-c", "import sys; print(sys.customized)"], check=True)
""")
    done = python("-m", "syncnorm", "run", "spawns.py", cwd=tmp_path, path=[str(tmp_path)])
    assert done.stdout == "by the user\n", done.stderr


def test_the_exit_code_is_that_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit(7)")
    assert python("-m", "syncnorm", "run", "ends.py", cwd=tmp_path).returncode == 7


def test_a_command_line_without_a_target(tmp_path: Path) -> None:
    done = python("-m", "syncnorm", "run", "-m", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -m syncnorm run SCRIPT [ARGUMENTS]\n")
    done = python("-m", "syncnorm", "run", "missing.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "python -m syncnorm run: got missing.py, which does not exist\n",
    )
    done = python("-m", "syncnorm", "run", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "torchrun --nproc-per-node 2 -m syncnorm run train.py" in done.stdout
