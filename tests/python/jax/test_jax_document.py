"""The Python of docs/jax.md and docs/flax.md runs, and holds what it asserts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(code: list[str]) -> None:
    assert len(code) == 2  # the second goes on where the first ends
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(code)], check=True, timeout=150)


def test_the_examples_of_jax_run() -> None:
    signature, *code = examples("jax.md")
    assert signature.startswith("y, running = batch_norm(")
    run(code)


def test_the_examples_of_flax_run() -> None:
    run(examples("flax.md"))
