"""The phases: kernels.py over the core, library.py as torch operators."""
