"""tools/cuda_resources reads what the compiler says of each kernel; here that is a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[3] / "tools" / "cuda_resources"

# _Z5twiceIfEvPT_i is twice<float>(float*, int), _Z5twiceIdEvPT_i twice<double>(double*, int).
NVCC = """#!{python}
import sys
words = sys.argv[1:]
assert not {{"-c", "-MD", "-MT", "k.o", "-MF", "k.d", "--threads=2"}} & set(words), words
assert not any(word.startswith(("--generate-code", "-Xfatbin")) for word in words), words
assert {{"-O3", "-cubin", "--resource-usage", "-arch=sm_80", "k.cu"}} <= set(words), words
for name, registers, spilled in (("f", 32, 0), ("d", 40, {spilled})):
    print(f"ptxas info    : Compiling entry function '_Z5twiceI{{name}}EvPT_i' for 'sm_80'")
    print(f"ptxas info    : Function properties for _Z5twiceI{{name}}EvPT_i")
    print(f"    16 bytes stack frame, {{spilled}} bytes spill stores, 0 bytes spill loads")
    print(f"ptxas info    : Used {{registers}} registers, used 1 barriers, 1032 bytes smem")
"""
NVDISASM = """#!/bin/sh
printf '.text._Z5twiceIfEvPT_i:\\n'
printf '  LDG.E.128.CONSTANT R8, desc[UR4][R2.64] ;\\n  LDG.E R8, desc[UR4][R2.64] ;\\n'
printf '  STG.E.128 desc[UR4][R2.64], R8 ;\\n  LDG.E.128 R8, desc[UR4][R2.64] ;\\n'
printf '.text._Z5twiceIdEvPT_i:\\n  STG.E.64 desc[UR4][R2.64], R8 ;\\n'
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def report(folder: Path, *options: str, spilled: int = 0) -> subprocess.CompletedProcess[str]:
    nvcc = script(folder / "nvcc", NVCC.format(python=sys.executable, spilled=spilled))
    script(folder / "nvdisasm", NVDISASM)
    command = (
        f'{nvcc} -O3 "--generate-code=arch=compute_90,code=[sm_90]" --threads=2 '
        "-Xfatbin=-compress-all -MD -MT k.o -MF k.d -x cu -c k.cu -o k.o"
    )
    entries = [
        {"directory": str(folder), "command": command, "file": f"{folder}/k.cu"},
        {"directory": str(folder), "command": "c++ -c x.cpp", "file": f"{folder}/x.cpp"},
    ]
    (folder / "compile_commands.json").write_text(json.dumps(entries), encoding="utf-8")
    return run(folder, "--arch", "80", *options)


def run(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOOL, *options, build],
        env={**os.environ, "PATH": f"{build}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_kernel_has_its_line(tmp_path):
    done = report(tmp_path, "--each")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| `twice<double>` | 1 | 40 | 0 | 16 | 1032 | 0 | 0 |" in lines
    assert "| `twice<float>` | 1 | 32 | 0 | 16 | 1032 | 2 | 1 |" in lines
    assert lines[-1] == "2 kernels for sm_80, 0 of them spill registers"


def test_the_instances_of_a_kernel_share_a_line(tmp_path):
    done = report(tmp_path)
    assert "| `twice` | 2 | 32-40 | 0 | 16 | 1032 | 0-2 | 0-1 |" in done.stdout.splitlines()


def test_a_spill_fails_and_is_named(tmp_path):
    done = report(tmp_path, spilled=8)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["spills: twice<double>"]
    assert "| `twice` | 2 | 32-40 | 0-8 |" in done.stdout


def test_a_build_without_cuda_is_refused(tmp_path):
    done = run(tmp_path)
    assert done.returncode != 0
    assert "-DSYNCNORM_CUDA=ON" in done.stderr
