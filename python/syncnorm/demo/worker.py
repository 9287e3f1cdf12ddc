"""The process of one rank."""

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

from .data import Digits
from .differences import compare
from .messages import Failure, Message
from .settings import Settings, plan_runs
from .training import Place, State, train

DIGITS_FILE = "digits.npz"
_MEETING_FILE = "meeting"


def work(rank: int, settings: Settings, folder: Path, screen: Connection) -> None:
    """Do all runs as rank `rank`; what happens is sent to `screen`, also a failure.

    folder: the ranks meet there, and find the digits there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its ranks
    try:
        _all_runs(rank, settings, folder, screen)
    except BaseException:  # noqa: BLE001  whatever it is, the parent has to hear of it
        try:
            screen.send(Failure(rank, traceback.format_exc()))
        finally:
            os._exit(1)  # an orderly exit could wait for a collective that never ends


def _all_runs(rank: int, settings: Settings, folder: Path, screen: Connection) -> None:
    torch.set_num_threads(1)
    digits = Digits.load(folder / DIGITS_FILE)

    def tell(message: Message) -> None:
        screen.send(message)

    runs = plan_runs(settings, len(digits.train_labels))
    states: dict[str, dict[int, State]] = {}
    place = _join(rank, settings, folder / _MEETING_FILE)
    for run in runs:
        if not run.single:
            states[run.name] = train(run, settings, digits, place, tell)
    dist.barrier()
    dist.destroy_process_group()
    if rank != 0:
        return
    for run in runs:
        if run.single:
            alone = Place(0, 1, place.device)
            states[run.name] = train(run, settings, digits, alone, tell)
    for dtype, name, reference in (
        ("float32", "syncnorm", "single"),
        ("float64", "syncnorm64", "single64"),
    ):
        for difference in compare(dtype, states[name], states[reference]):
            tell(difference)


def _join(rank: int, settings: Settings, meeting_file: Path) -> Place:
    cuda = settings.device == "cuda"
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name may lead nowhere
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"file://{meeting_file}",
        rank=rank,
        world_size=settings.ranks,
        timeout=datetime.timedelta(seconds=settings.timeout),
    )
    return Place(rank, settings.ranks, device)
