"""The matrix of faults."""

from .fixtures import pytest_generate_tests, ranks

__all__ = ["pytest_generate_tests", "ranks"]
