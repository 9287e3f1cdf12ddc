"""Train a small YOLO on four images by the recipe for Ultralytics, in one process.

Usage: ultralytics_training.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from page import recipe
from PIL import Image
from ultralytics import YOLO
from ultralytics.utils.nms import TorchNMS

import syncnorm.torch


def data() -> str:
    """Write a data set and return the path of its description."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        Path("data", part).mkdir(parents=True)
    for number in range(4):
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"data/images/{number}.png")
        Path(f"data/labels/{number}.txt").write_text("0 0.5 0.5 0.4 0.4\n", encoding="utf-8")
    description = f"path: {Path('data').resolve()}\ntrain: images\nval: images\nnames: [thing]\n"
    Path("data.yaml").write_text(description, encoding="utf-8")
    return "data.yaml"


def main() -> None:
    if not torchvision.extension._has_ops():
        torchvision.ops.nms = TorchNMS.nms  # Ultralytics' own, for where there is no torchvision
    model = YOLO("yolov8n.yaml")
    seen: list[int] = []

    def count(trainer: Any) -> None:
        layers = trainer.model.modules()
        seen.append(sum(isinstance(each, syncnorm.torch.SyncBatchNorm2d) for each in layers))

    model.add_callback("on_train_batch_end", count)
    settings = {
        "data": data(),
        "epochs": 1,
        "imgsz": 32,
        "batch": 4,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "val": False,
        "project": str(Path("runs").resolve()),
        "name": "one",
    }
    exec(recipe("Ultralytics"), {"model": model, "settings": settings})
    assert seen
    assert seen[0] > 50, seen


if __name__ == "__main__":
    main()
