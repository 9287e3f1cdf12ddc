"""The phases as operators of torch, for compilers, exporters and layers of one's own.

ops.py and grad_ops.py are the operators, compiled.py the layer composed of them, phases.py their
public face, syncnorm.torch.functional.
"""
