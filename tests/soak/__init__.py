"""Soak test: long training on several ranks, whose resources must not grow."""
