"""Squeeze-and-excitation (Hu, Shen, Sun, CVPR 2018): every channel times a gate computed from all channels' means."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcitation(nn.Module):
    """x times sigmoid(W2 relu(W1 s + b1) + b2), s the mean of each channel over its valid places.

    Args:
        channels: C.
        hidden: width of the hidden layer, default max(4, C / 8).
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or max(4, channels // 8)
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def gate(self, means: Tensor) -> Tensor:
        """Return the gates (B, C) in [0, 1] for given means (B, C)."""
        return torch.sigmoid(self.fc2(functional.relu(self.fc1(means.to(self.fc1.weight.dtype)))))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scale the channels of x.

        Args:
            x: (B, C, H, W); sums are taken in fp32 or wider.
            mask: (B, 1, 1 or H, 1 or W), 1 where x counts, 0 where it is padding, whatever stands there; None: all.

        Returns:
            (B, C, H, W) of x's type; padding is scaled like the rest.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if mask is None:
            means = wide.mean(dim=(2, 3))
        else:
            valid = mask.bool().expand(-1, 1, *x.shape[2:])
            count = valid.sum(dim=(2, 3)).clamp(min=1)
            means = torch.where(valid, wide, 0).sum(dim=(2, 3)) / count
        return x * self.gate(means)[:, :, None, None].to(x.dtype)
