"""Speed on a GPU: `python -m benchmarks.gpu`, from the root of the project (docs/benchmarks.md)."""
