"""Every block of docs/recipes.md has a test that runs it, and the training tells ranks apart."""

from __future__ import annotations

from pathlib import Path

import problems
import pytest
import torch
from page import recipes


def test_every_recipe_is_run() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py"))
    missing = [
        (heading, number)
        for heading, blocks in recipes().items()
        for number in range(len(blocks))
        if f'recipe("{heading}"' + (f", {number})" if number else ")") not in tests
    ]
    assert recipes()
    assert missing == []


def test_the_training_differs_without_synchronization() -> None:
    """Two processes that average gradients of their own statistics end elsewhere."""
    ranks = [problems.network(), problems.network()]
    optimizers = [problems.optimizer_of(model) for model in ranks]
    batches = [list(problems.loader(rank, 2)) for rank in range(2)]
    for _ in range(problems.EPOCHS):
        for step in range(problems.STEPS):
            for rank, model in enumerate(ranks):
                optimizers[rank].zero_grad()
                x, target = batches[rank][step]
                problems.loss_of(model(x), target).backward()
            for pair in zip(*(model.parameters() for model in ranks), strict=True):
                mean = torch.stack([each.grad for each in pair]).mean(0)
                for each in pair:
                    each.grad = mean
            for optimizer in optimizers:
                optimizer.step()
    with pytest.raises(AssertionError):
        problems.check(ranks[0].state_dict())
