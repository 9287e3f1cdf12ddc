"""The Python of docs/jax.md runs, and holds what it asserts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[3] / "docs" / "jax.md"


def test_the_examples_run() -> None:
    signature, *examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert signature.startswith("y, running = batch_norm(")
    assert len(examples) == 2  # the second goes on where the first ends
    code = "\n".join(examples)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=150)
