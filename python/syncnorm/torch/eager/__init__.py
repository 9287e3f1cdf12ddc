"""Eager mode: autograd Functions that call the core directly."""
