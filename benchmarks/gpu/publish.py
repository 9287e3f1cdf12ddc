"""Keep results of one machine, and put their summary into a document.

    python -m benchmarks.gpu.publish gpu-check-results... --markdown README.md

Each folder, or file, is what tools/gpu_check.sh or python -m benchmarks.gpu left. Together they go
to benchmarks/results/<gpu>/: results.json, benchmark.md and the plots. Given that results.json
alone, reports, plots and summary are made from it anew.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
from pathlib import Path
from typing import Any

from .results import Results, document, read, together
from .run import write_reports
from .summary import put_into, summary

KEPT = Path("benchmarks/results")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.publish", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="folders or files, the earlier first")
    add("--output", type=Path, help=f"folder ({KEPT}/<gpu>)")
    add("--markdown", type=Path, help="put the summary between the two marks of this document")
    args = parser.parse_args()
    try:
        results = functools.reduce(together, map(_read, args.results))
        folder = args.output or KEPT / folder_name(results.facts["gpu"])
        text = summary(results, folder.as_posix())
        folder.mkdir(parents=True, exist_ok=True)
        checks = [check for place in args.results for check in _checks(place)]
        whole = {"checks": checks, "benchmark": document(results)}
        (folder / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
        write_reports(results, folder)
        if args.markdown is not None:
            put_into(args.markdown, text)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(folder)
    return 0


def folder_name(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia")).strip("-")


def _read(place: Path) -> Results:
    return read(place / "benchmark.json" if place.is_dir() else place)


def _checks(place: Path) -> list[dict[str, Any]]:
    """Return the steps that tools/gpu_check.sh has recorded."""
    path = place / "results.json" if place.is_dir() else place
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if "steps" in found:
        return [{key: found[key] for key in ("verdict", "verified", "machine", "steps")}]
    return list(found.get("checks", []))


if __name__ == "__main__":
    raise SystemExit(main())
