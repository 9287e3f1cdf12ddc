"""What from_env makes of an environment, in a process that no launcher has started."""

from __future__ import annotations

from unittest import mock

import pytest

import syncnorm
from syncnorm import _core, launcher
from syncnorm.launcher import from_env, local_rank

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "4"}
SLURM = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}


@pytest.fixture(name="variables")
def environment_of_a_job(monkeypatch):
    """Set these variables and unset all others that a launcher sets."""

    def set_only(**given: str) -> None:
        mpirun = {name for pair in launcher._MPIRUN for name in pair}
        for name in (*launcher._TORCHRUN, *launcher._LOCAL_RANK, *mpirun):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return set_only


@pytest.mark.parametrize(
    ("variables_set", "launchers", "size"),
    [
        ({}, [], None),
        (TORCHRUN, ["torchrun"], 4),
        ({"MASTER_ADDR": "localhost", "WORLD_SIZE": "4"}, [], None),
        (OPEN_MPI, ["mpirun"], 4),
        (MPICH, ["mpirun"], 4),
        ({"PMI_RANK": "1"}, ["mpirun"], None),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "4"}, ["mpirun"], 4),
        ({"PMIX_RANK": "1"} | SLURM, ["mpirun"], 4),
        ({"PMIX_RANK": "1"} | OPEN_MPI, ["mpirun"], 4),
        (TORCHRUN | OPEN_MPI, ["mpirun", "torchrun"], 4),
        (TORCHRUN | {"PMIX_RANK": "1"}, ["mpirun", "torchrun"], None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, [], None),
    ],
    ids=str,
)
def test_what_has_started_this_process(variables_set, launchers, size):
    found = launcher.find_jobs(variables_set)
    assert [one.launcher for one in found] == launchers
    assert [one.rank for one in found] == [1] * len(found)
    assert all(one.world_size == size for one in found[:1])


@pytest.mark.parametrize(
    ("variables_set", "message"),
    [
        (TORCHRUN | MPICH | {"PMI_SIZE": "2"}, r"PMI_RANK=1, PMI_SIZE=2 and RANK=1, WORLD_SIZE=4"),
        (TORCHRUN | MPICH | {"PMI_RANK": "0"}, r"PMI_RANK=0, PMI_SIZE=4 and RANK=1"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, r"RANK=0 without MASTER_ADDR, MASTER_PORT, expected"),
        (TORCHRUN | {"RANK": "x"}, r"got RANK='x', expected a number"),
        (TORCHRUN | {"RANK": "-1"}, r"got RANK='-1', expected a number"),
        (MPICH | {"PMI_RANK": "4"}, r"got PMI_RANK=4, PMI_SIZE=4, expected a rank below"),
        (SLURM, r"srun started SLURM_STEP_NUM_TASKS=4 processes without MPI"),
    ],
    ids=str,
)
def test_what_cannot_be(variables, variables_set, message):
    variables(**variables_set)
    with pytest.raises(syncnorm.InvalidArgumentError, match=f"^environment: .*{message}"):
        from_env()


def test_a_process_by_itself_is_a_group_of_one(variables, monkeypatch):
    variables()
    with from_env() as comm:
        assert (comm.rank, comm.size, comm.device_memory) == (0, 1, ("cpu",))
    monkeypatch.setattr(_core, "nccl_group", lambda *given, **options: [(given, options)])
    assert from_env(3, timeout=5.0) == (([3],), {"sum_timeout": 5.0})
    assert from_env(3, sum_timeout=None, max_ctas=1) == (
        ([3],),
        {"sum_timeout": None, "max_ctas": 1},
    )
    assert local_rank() == 0


def test_options_of_nccl_need_a_device(variables):
    variables()
    with pytest.raises(
        syncnorm.InvalidArgumentError, match=r"^init_timeout: got an NCCL option without a device"
    ):
        from_env(init_timeout=3.0)


@pytest.mark.parametrize(
    ("variables_set", "package"), [(TORCHRUN, "torch"), (OPEN_MPI, "mpi4py")], ids=str
)
def test_a_package_that_is_not_installed(variables, monkeypatch, variables_set, package):
    variables(**variables_set)
    monkeypatch.setattr(launcher, "find_spec", {}.get)
    with pytest.raises(
        ImportError, match=rf"=1, .*=4, as set by .*, requires {package}, which is not"
    ):
        from_env()


def test_of_two_launchers_that_agree_the_one_whose_package_is_there(variables, monkeypatch):
    variables(**TORCHRUN, **OPEN_MPI)
    over = {"mpi4py": mock.Mock(), "torch": mock.Mock()}
    monkeypatch.setattr(launcher, "_from_mpi", over["mpi4py"])
    monkeypatch.setattr(launcher, "_from_torch", over["torch"])
    for installed, chosen in (({"mpi4py", "torch"}, "mpi4py"), ({"torch"}, "torch")):
        monkeypatch.setattr(launcher, "find_spec", dict.fromkeys(installed, True).get)
        assert from_env() is over[chosen].return_value


@pytest.mark.parametrize(
    "name", ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"]
)
def test_local_rank(variables, name):
    variables(**TORCHRUN, **{name: "3"})
    assert local_rank() == 3


def test_a_missing_local_rank(variables):
    variables(**TORCHRUN)
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"RANK=1, WORLD_SIZE=4, but no local"):
        local_rank()
    variables(LOCAL_RANK="first")
    with pytest.raises(syncnorm.InvalidArgumentError, match=r"got LOCAL_RANK='first'"):
        local_rank()
