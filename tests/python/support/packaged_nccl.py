"""The real libnccl, as its package brings it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

NAMES = ("nvidia-nccl-cu13", "nvidia-nccl-cu12")
WITHOUT_PACKAGE = f"{NAMES[0]} is not installed: pip install --group test"


def packaged_library() -> tuple[str, Path] | None:
    """Version and path of the libnccl that a package brought."""
    for name in NAMES:
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        (library,) = [path for path in package.files or [] if path.name == "libnccl.so.2"]
        return package.version, Path(package.locate_file(library))
    return None
