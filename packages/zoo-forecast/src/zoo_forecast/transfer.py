"""Between host and device without waiting more than need be.

A copy from or to ordinary memory waits until the device has computed everything before it. One from pinned memory is
queued like a kernel, and the memory, once pinned, is used again.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """Return values of the host on a device; what it computes meanwhile is not waited for."""
    values = torch.as_tensor(values)
    if device.type != "cuda" or values.device.type == "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def to_host(values: Tensor) -> Tensor:
    """Return values of a device on the host, when they are there."""
    if values.device.type != "cuda":
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    torch.cuda.current_stream(values.device).synchronize()
    return host
