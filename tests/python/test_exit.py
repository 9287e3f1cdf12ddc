"""Exit of the interpreter while daemon threads are inside calls: no crash, exit status 0."""

from __future__ import annotations

import subprocess
import sys

import pytest

PREAMBLE = """
import contextlib, sys, threading, time
import numpy as np
import syncnorm
from syncnorm.comm import from_callback, thread_group
from syncnorm.numpy import forward
x = np.ones((2, 8), "f4")
inside = threading.Event()
def start(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
"""

PROGRAMS = {
    "in a callback that sleeps": """
def sum(src, dst):
    inside.set()
    while True: time.sleep(0.001)
start(lambda: forward(x, comm=from_callback(0, 2, sum)))
""",
    "in a callback that computes": """
def sum(src, dst):
    inside.set()
    while True: pass
start(lambda: forward(x, comm=from_callback(0, 2, sum)))
""",
    "in a callback in a callback": """
def inner(src, dst):
    inside.set()
    while True: time.sleep(0.001)
def outer(src, dst):
    forward(x, comm=from_callback(0, 2, inner))
start(lambda: forward(x, comm=from_callback(0, 2, outer)))
""",
    "in split and abort callables": """
def wait(*_):
    inside.set()
    while True: time.sleep(0.001)
start(lambda: from_callback(0, 2, wait, wait).split(0))
start(lambda: from_callback(0, 2, wait, None, wait).abort("reason"))
""",
    "in the wait of a thread group": """
a, b = thread_group(2, timeout=3600)
start(lambda: (inside.set(), forward(x, comm=a)))
""",
    "in a wait that ends during the exit": """
groups = [thread_group(2, timeout=0.3 + 0.01 * i) for i in range(30)]
def wait(comm):
    with contextlib.suppress(syncnorm.CommunicatorTimeoutError):
        forward(x, comm=comm)
for a, b in groups: start(lambda a=a: wait(a))
inside.set()
time.sleep(0.2)
""",
    "in calls without a wait": """
def train():
    while True:
        forward(x)
        inside.set()
for _ in range(4): start(train)
""",
    "in calls of a group of callbacks": """
def copy(src, dst):
    dst[:] = src
def train():
    comm = from_callback(0, 1, copy)
    values, total = np.ones(3), np.zeros(3)
    view = lambda a: syncnorm._core.Array(a, a.shape, (1,), "float64")
    while True:
        comm.sum(view(values), view(total))
        inside.set()
for _ in range(4): start(train)
""",
    "in calls that meet": """
def train(comm):
    while True:
        forward(x, comm=comm)
        inside.set()
for comm in thread_group(2, timeout=3600): start(lambda comm=comm: train(comm))
""",
    "in a call whose communicator was closed": """
def sum(src, dst):
    inside.set()
    while True: time.sleep(0.001)
comm = from_callback(0, 2, sum)
start(lambda: forward(x, comm=comm))
inside.wait()
comm.close()
""",
    "with communicators that live until the end": """
import builtins
builtins.kept = thread_group(2), from_callback(0, 2, print)
sys.kept = thread_group(2), from_callback(0, 2, print)
inside.set()
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=list(PROGRAMS))
def test_exit_with_daemon_threads(program):
    code = PREAMBLE + program + "\nassert inside.wait(60)\ntime.sleep(0.05)\n"
    for _ in range(3):  # what a thread does when the interpreter goes differs from run to run
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
