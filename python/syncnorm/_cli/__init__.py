"""Shared code of the commands demo, bench and info."""
