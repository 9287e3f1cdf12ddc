"""Compare two results of `python -m syncnorm bench`, or two of `python -m benchmarks.gpu`.

    python benchmarks/compare.py before/results.json after/results.json

The script shows whether a change made syncnorm faster or slower. It compares the ratios to torch,
which was timed beside syncnorm in both runs, so that a difference in load between the two runs
matters little.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

Ratios = dict[str, float]  # by point and operation


def read_ratios(path: Path) -> Ratios:
    """Return the ratios ours / torch of the result file `path`."""
    points = json.loads(path.read_text())["points"]
    return {
        f"{_label(point)}, {operation}": measured["timing"]["ratio"]
        for point in points
        for operation, measured in point["operations"].items()
    }


def _label(point: dict[str, Any]) -> str:
    threads = f", {point['threads']} thr" if "threads" in point else ""
    return f"{point['name']}{threads}"


def main() -> int:
    """Run the comparison with the arguments of the process; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args()
    before, after = read_ratios(args.before), read_ratios(args.after)
    common = [key for key in before if key in after]
    if not common:
        parser.error("the two results have no point in common, expected at least one")
    print(f"{'ours / torch':<62}{'before':>8}{'after':>8}{'after/before':>14}")
    for name in common:
        old, new = before[name], after[name]
        print(f"{name:<62}{old:>8.2f}{new:>8.2f}{new / old:>14.2f}")
    change = math.fsum(math.log(after[key] / before[key]) for key in common) / len(common)
    print(f"{'geometric mean':<78}{math.exp(change):>14.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
