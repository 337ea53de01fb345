"""In which format a CUDA device computes products of fp32 numbers."""

from __future__ import annotations

import torch


class number_format:
    """While inside: matrix products and convolutions of fp32 tensors in plain fp32, or in tf32, on CUDA.

    PyTorch's own start value is tf32 for convolutions, with 10 bits of mantissa; here "fp32" means it.

    Args:
        precision: `fp32` is plain fp32; whatever else is asked for, tf32 is good enough beside it.
        benchmark: whether cuDNN tries its algorithms and takes the fastest, which may differ from run to run.
    """

    def __init__(self, precision: str, *, benchmark: bool = False) -> None:
        self.wanted = (precision != "fp32", precision != "fp32", benchmark)

    def __enter__(self) -> None:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        self.before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = self.wanted

    def __exit__(self, *_: object) -> None:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = self.before
