"""What the layers with other systems' names and conventions share.

The layers themselves are mxnet.py, paddle.py, encoding.py, mmcv.py and megengine.py beside this
folder: each is a signature, conventions and names, and hands its call to entry.batch_norm.
"""
