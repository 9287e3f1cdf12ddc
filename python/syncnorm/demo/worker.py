"""Run all training runs in the process of one rank."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from .config import DemoConfig
from .data import Digits
from .differences import State, compare_states
from .messages import Failure
from .run_plan import plan_runs
from .training import RankInfo, Training

DIGITS_FILE = "digits.npz"
_RENDEZVOUS_FILE = "rendezvous"


def run_rank(rank: int, config: DemoConfig, folder: Path, connection: Connection) -> None:
    """Run the demo as rank `rank`; exit the process if it fails.

    Args:
        rank: This process's rank.
        config: The demo's configuration.
        folder: Contains `DIGITS_FILE`; the ranks rendezvous through a file there.
        connection: Receives the messages, including the failure.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its ranks
    try:
        _run_all(rank, config, folder, connection)
    except BaseException:  # noqa: BLE001 - report every error to the parent
        try:
            connection.send(Failure(rank, traceback.format_exc()))
        finally:
            os._exit(1)  # a regular exit could wait for a collective that never completes


def _run_all(rank: int, config: DemoConfig, folder: Path, connection: Connection) -> None:
    torch.set_num_threads(1)
    digits = Digits.load(folder / DIGITS_FILE)
    runs = plan_runs(config, len(digits.train_labels))
    states: dict[str, dict[int, State]] = {}
    rank_info = _init_process_group(rank, config, folder / _RENDEZVOUS_FILE)
    for run in runs:
        if not run.single:
            training = Training(run, config, digits, rank_info, connection.send)
            states[run.name] = training.run_steps()
    dist.barrier()
    dist.destroy_process_group()
    if rank != 0:
        return
    single = RankInfo(0, 1, rank_info.device)
    for run in runs:
        if run.single:
            training = Training(run, config, digits, single, connection.send)
            states[run.name] = training.run_steps()
    for dtype, name, reference in (
        ("float32", "syncnorm", "single"),
        ("float64", "syncnorm64", "single64"),
    ):
        for difference in compare_states(dtype, states[name], states[reference]):
            connection.send(difference)


def _init_process_group(rank: int, config: DemoConfig, rendezvous_file: Path) -> RankInfo:
    cuda = config.device == "cuda"
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host name may not resolve
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{rendezvous_file}",
        rank=rank,
        world_size=config.ranks,
        timeout=datetime.timedelta(seconds=config.timeout),
    )
    return RankInfo(rank, config.ranks, device)
