"""A stand-in for detectron2, which the index does not have for current versions of PyTorch.

It has the documented interface that docs/recipes.md uses, written for these tests.
"""
