"""Tests of the project itself: its layers, its stub, its package."""
