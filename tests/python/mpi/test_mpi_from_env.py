"""from_env in processes that mpirun has started."""

from __future__ import annotations

import json

from mpi_worlds import mpirun

PROGRAM = """
import json, os
from array import array
from syncnorm._core import Array
from syncnorm.launcher import from_env, local_rank

def error_of(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

with from_env(timeout=60) as comm:
    src, dst = array("d", [comm.rank, 1]), array("d", [0, 0])
    comm.sum(*(Array(a, (2,), (1,), "float64") for a in (src, dst)))
    found = {"place": [comm.rank, comm.size, local_rank()], "sum": list(dst)}

rank, size = os.environ["OMPI_COMM_WORLD_RANK"], os.environ["OMPI_COMM_WORLD_SIZE"]
torchrun = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
os.environ.update(torchrun)
with from_env(timeout=60) as comm:  # no port is asked for
    found["torchrun agrees"] = [comm.rank, comm.size]
os.environ["WORLD_SIZE"] = "8"
found["torchrun contradicts"] = error_of(from_env)
for name in torchrun:
    del os.environ[name]
os.environ["OMPI_COMM_WORLD_SIZE"] = "9"
found["another MPI"] = error_of(from_env)

from mpi4py import MPI
everything = MPI.COMM_WORLD.gather(found)
if MPI.COMM_WORLD.rank == 0:
    print(json.dumps(everything))
"""


def test_the_whole_job():
    done = mpirun(2, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    for rank, found in enumerate(json.loads(done.stdout)):
        assert found["place"] == [rank, 2, rank]
        assert found["sum"] == [1, 2]
        assert found["torchrun agrees"] == [rank, 2]
        assert found["torchrun contradicts"].startswith(
            f"InvalidArgumentError: environment: OMPI_COMM_WORLD_RANK={rank},"
            f" OMPI_COMM_WORLD_SIZE=2 and RANK={rank}, WORLD_SIZE=8 contradict each other"
        )
        assert found["another MPI"].startswith(
            f"InvalidArgumentError: environment: OMPI_COMM_WORLD_RANK={rank},"
            " OMPI_COMM_WORLD_SIZE=9, but MPI.COMM_WORLD has 2 ranks"
        )
