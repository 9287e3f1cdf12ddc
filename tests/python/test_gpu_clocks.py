"""What the benchmark does with a CUDA device, on one that is pretended: a queue and a memory."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import host, meter  # noqa: E402

SECONDS_PER_CYCLE = 1e-10


class Device:
    """Its queue is worked off as time passes; launch adds to it."""

    def __init__(self) -> None:
        self.free_at = time.perf_counter()
        self.allocated = self.peak = 1000

    def launch(self, seconds: float) -> None:
        self.free_at = max(self.free_at, time.perf_counter()) + seconds

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.free_at - time.perf_counter()))

    def allocate(self, nbytes: int) -> None:
        self.allocated += nbytes
        self.peak = max(self.peak, self.allocated)


class Event:
    device: Device

    def __init__(self, **_: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = max(self.device.free_at, time.perf_counter())

    def query(self) -> bool:
        return time.perf_counter() >= self.at

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.at - time.perf_counter()))

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


@pytest.fixture(name="device")
def pretended_device(monkeypatch):
    device = Device()
    monkeypatch.setattr(Event, "device", device, raising=False)
    for name, stand_in in {
        "_sleep": lambda cycles: device.launch(cycles * SECONDS_PER_CYCLE),
        "synchronize": device.synchronize,
        "Event": Event,
        "memory_allocated": lambda: device.allocated,
        "max_memory_allocated": lambda: device.peak,
        "reset_peak_memory_stats": lambda: setattr(device, "peak", device.allocated),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(host, "CALLS", 4)
    monkeypatch.setattr(host, "ROUNDS", 3)
    return device


def test_the_host_is_timed_with_and_without_work_before(device):
    clock = host.host_clock("cuda")
    call = lambda: time.sleep(2e-3)  # noqa: E731
    for seconds in (clock.idle(call), clock.busy(call)):
        assert seconds == pytest.approx(2e-3, rel=1)


def test_a_call_that_waits_for_the_device_has_no_time_behind_other_work(device):
    assert host.host_clock("cuda").busy(device.synchronize) is None


def test_steps_are_timed_on_the_device_one_after_the_other(device):
    seconds = meter.meter_for("cuda").seconds(lambda: device.launch(5e-3), 4)
    assert seconds == pytest.approx(5e-3, rel=0.2)


def test_peak_memory_is_what_a_step_adds(device):
    def step() -> None:
        device.allocate(500)
        device.allocate(-500)

    step()
    device.allocate(70)
    assert meter.meter_for("cuda").peak_bytes(step) == 500
