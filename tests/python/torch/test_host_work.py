"""How much Python runs in a training step: on a GPU it must not outlast the kernels."""

from __future__ import annotations

from worlds import World

MAX_FRAMES = 50


def test_frames_of_a_training_step(worlds) -> None:
    """Forward and backward of one SyncBatchNorm over two ranks, after two warm-up steps."""
    world: World = worlds("scenarios_layer_classes", 2)
    for frames in world["frames_of_a_training_step"]:
        report = "\n".join(f"{count} {function}" for function, count in frames.most_common())
        assert frames.total() <= MAX_FRAMES, report
        # Both passes were seen.
        assert frames["torch/layer.py:forward"] == 1
        assert frames["torch/eager/batch_norm.py:backward"] == 1
