"""What must be set before any test module is imported."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process a core: threads beside them would only wait for each other. PyTorch reads this when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    # Kernels then run in Triton's interpreter. Triton reads this when it is first imported, which other libraries do.
    os.environ["TRITON_INTERPRET"] = "1"
