"""Kernels of our own, each with a plain reference beside it.

A folder per kernel: `reference.py` (PyTorch, any device and type, in fp32 or wider), `triton.py` (CUDA) and
`__init__.py`, which registers the pair with torch.library: the dispatcher chooses, and torch.compile and torch.export
see one opaque operator.

`conv3x3` and `pointwise` are for inference on channel-last maps with a zero border: forward only, written into tensors
that the caller gives (`out`), so that borders stay zero and a CUDA graph can replay them. `ctc` is a loss, with its
backward. `sampler` takes all steps of a flow at once, forward only.
"""
