"""What must be set before any test module is imported."""

import os

import torch

if not torch.cuda.is_available():
    # Kernels then run in Triton's interpreter. Triton reads this when it is first imported, which other libraries do.
    os.environ["TRITON_INTERPRET"] = "1"
