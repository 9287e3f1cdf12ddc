"""How many threads a call takes, and that calls of several threads and processes do not meet."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest

from support.adapter_driver import run_one_call, run_phases
from support.cases import simple_case
from support.driver import assert_same_bits
from support.numpy_arrays import NUMPY
from syncnorm import Communicator, InvalidArgumentError
from syncnorm import numpy as bn
from syncnorm.comm import from_callback, thread_group
from syncnorm.numpy.library import NumpyLibrary

X = np.random.default_rng(0).standard_normal((4, 3, 5))


def threads_in_a_process(program: str, **environment: str) -> int:
    """What placement says in a process that ran `program` before it imported syncnorm."""
    ask = """
import numpy as np
from syncnorm.numpy.library import LIBRARY
print(LIBRARY.placement(np.zeros(1), 0, None, None)["num_threads"])
"""
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", program + ask],
        env=inherited | environment,
        capture_output=True,
        check=True,
        timeout=120,
    )
    return int(done.stdout)


ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"


@pytest.mark.parametrize(("given", "expected"), [("3", 3), (" 5,2", 5), ("0", 1), ("many", 1)])
def test_threads_from_the_environment(given: str, expected: int) -> None:
    assert threads_in_a_process(ONE_CORE, OMP_NUM_THREADS=given) == expected


def test_threads_from_the_cores_of_the_process() -> None:
    assert threads_in_a_process(ONE_CORE) == 1
    assert threads_in_a_process("") == len(os.sched_getaffinity(0))


def threads_for(comm: Communicator | None, given: int | None = None) -> int:
    return NumpyLibrary().placement(X, 0, given, comm)["num_threads"]


def test_ranks_that_are_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncnorm.numpy.library._CORES", 8)
    groups = {size: thread_group(size) for size in (1, 3, 16)}
    assert [threads_for(comms[0]) for comms in groups.values()] == [8, 2, 1]
    assert threads_for(groups[16][0], given=5) == 5
    assert threads_for(None) == 8
    elsewhere = from_callback(0, 4, print)  # the other ranks are other processes
    assert threads_for(elsewhere) == 8
    for comm in chain([elsewhere], *groups.values()):
        comm.close()


def test_backward_takes_the_threads_of_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    placement = NumpyLibrary.placement

    def recorded(library: Any, x: Any, size: int, threads: Any, comm: Any) -> dict[str, Any]:
        asked.append((threads, comm))
        return placement(library, x, size, threads, comm)

    monkeypatch.setattr(NumpyLibrary, "placement", recorded)
    x = X.astype(np.float32)
    (comm,) = thread_group(1)
    _, saved = bn.forward(x, num_threads=3, comm=comm)
    bn.backward(x, saved)
    wire, _ = bn.moments(x, num_threads=2)
    _, saved = bn.normalize(x, wire, wire.copy(), 1, num_threads=2)
    bn.grad_moments(x, saved)
    comm.close()
    assert asked == [(3, comm)] * 2 + [(2, None)] * 3


@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_bits_do_not_depend_on_threads(dtype: str, layout: str) -> None:
    case = simple_case(dtype, (2, 1), 9, (95, 97), layout=layout, residual=True, activation="elu")
    first = run_phases(NUMPY, case)
    for threads in (1, 2, 3, 8, None):
        assert_same_bits(first, run_one_call(NUMPY, case, threads))


def results(seed: int) -> list[bytes]:
    """Both passes on arrays of a shape of their own, several times."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((2 + seed, 4 + 31 * seed, 3, 5)).astype(np.float32)
    found = []
    for _ in range(10):
        y, saved = bn.forward(x, activation="leaky_relu")
        found += [y.tobytes(), bn.backward(y, saved).dx.tobytes()]
    return found


def test_calls_of_several_threads() -> None:
    expected = [results(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(results, range(8))) == expected


def test_zero_threads_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="num_threads"):
        bn.infer(X, None, None, np.zeros(3), np.ones(3), num_threads=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repeated_calls_give_the_same_bits(dtype: type) -> None:
    x = np.random.default_rng(1).standard_normal((8, 33, 17, 19)).astype(dtype)
    runs = [bn.forward(x, num_threads=2)[0].tobytes() for _ in range(5)]
    assert all(one == other for one, other in pairwise(runs))


FORKED = """
import os
import numpy as np
from syncnorm import numpy as bn

x = np.random.default_rng(0).standard_normal((8, 33, 17, 19))
expected, saved = bn.forward(x, num_threads=4)
child = os.fork()
if child == 0:
    y, _ = bn.forward(x, num_threads=4)
    dx = bn.backward(y, saved).dx
    os._exit(0 if y.tobytes() == expected.tobytes() and np.isfinite(dx).all() else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
"""


def test_a_forked_process_goes_on() -> None:
    # Python itself warns of forks of programs with threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    subprocess.run(command, check=True, timeout=120)
