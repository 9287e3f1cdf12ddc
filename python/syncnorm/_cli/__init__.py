"""Shared code of the commands demo and bench."""
