"""python -m syncnorm info on a machine with a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import torch


def test_every_device_is_named_and_checked() -> None:
    command = [sys.executable, "-m", "syncnorm", "info", "--check", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    assert found["torch"]["devices"] == names
    assert found["gpu"]["driver"]
    passed = {(each["backend"], *each["devices"]) for each in found["check"] if not each["problem"]}
    devices = [f"cuda:{index}" for index in range(len(names))]
    assert passed >= {("gloo", device, device) for device in devices} | {("nccl", *devices)}
