"""Errors that several systems have alike."""

from __future__ import annotations


class RefusedArgument(ValueError, AssertionError):
    """A ValueError, where the system that is stood in for has an assertion."""
