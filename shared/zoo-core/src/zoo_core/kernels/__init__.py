"""Fused inference kernels on channel-last maps with a zero border, each with a plain reference beside it.

A folder per kernel: `reference.py` (PyTorch, any device and type, in fp32 or wider), `triton.py` (CUDA; forward only:
nothing here is trained) and `__init__.py`, which registers the pair with torch.library: the dispatcher chooses, and
torch.compile and torch.export see one opaque operator. All operators write into tensors that the caller gives (`out`),
so that borders stay zero and a CUDA graph can replay them.
"""
