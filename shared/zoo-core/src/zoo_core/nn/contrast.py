"""Contrast-aware channel attention (IMDN, Hui et al., ACM MM 2019, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def channel_statistics(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the population variance of every channel over all positions, two-pass, at least in fp32.

    Args:
        u: (N, C, H, W), any floating type. Half precision is widened first: its sum of squares overflows.

    Returns:
        mean and variance, both (N, C), fp32 (fp64 for fp64 input).
    """
    wide = u if u.dtype == torch.float64 else u.float()
    if wide.device.type == "cpu":  # torch.var_mean takes 7 times as long there (1 x 64 x 180 x 320, one thread)
        flat = wide.flatten(2)
        mean = flat.mean(-1)
        return mean, torch.linalg.vector_norm(flat - mean[..., None], dim=-1).square() / flat.shape[-1]
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0)
    return mean, variance


class ContrastAwareAttention(nn.Module):
    """Scales every channel by a gate computed from its mean plus its standard deviation ("contrast").

    gate = sigmoid(W2 relu(W1 (mean + std) + b1) + b2). Squeeze-and-excitation without the added deviation.

    Args:
        channels: C.
        reduction: C / reduction is the width of the hidden layer.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = channels // reduction
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def gate(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the gates (N, C) in [0, 1] for given statistics (N, C).

        The root has an infinite slope at 0, so a constant channel would give inf * 0 = NaN: its gradient is set to 0.
        """
        varies = variance > 0
        deviation = torch.where(varies, torch.where(varies, variance, 1.0).sqrt(), 0.0)
        pooled = (mean + deviation).to(next(self.conv_du.parameters()).dtype)
        gate: Tensor = self.conv_du(pooled[:, :, None, None])
        return gate[:, :, 0, 0]

    def forward(self, u: Tensor) -> Tensor:
        """Return u (N, C, H, W) with every channel times its gate."""
        return u * self.gate(*channel_statistics(u))[:, :, None, None]
