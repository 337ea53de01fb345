"""Flow matching on tokens (section 3.3): a net that knows the clean token, and the ways from a start to it.

The net f(x, t, z) predicts the clean token y from x_t = t y + (1 - t) x_0, where x_0 is a prototype plus noise and z
the condition of the token. Times count up: 0 is the start, 1 the clean token.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

TIME_SCALE = 1000.0  # of t, before its code
TIME_WIDTH = 256
EPSILON = 1e-6

Sampler = Literal["official", "ode"]


class FlowNet(nn.Module):
    """f(x, t, z): an MLP of residual blocks whose norms are modulated by time and condition (adaLN, as in DiT).

    Args:
        length: p, points of a token.
        width: d, of the condition too.
        blocks: how many.
    """

    def __init__(self, length: int, width: int, blocks: int) -> None:
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(width, width)
        self.input_proj = nn.Linear(length, width)
        self.res_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.final_layer = FinalLayer(width, length)
        self._start()

    def _start(self) -> None:
        """Begin as DiT does: modulations and last layer at zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for layer in self.time_embed.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        for name, weight in self.named_parameters():
            if "adaLN_modulation" in name:
                nn.init.zeros_(weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def guide(self, t: Tensor, z: Tensor) -> Tensor:
        """Return what modulates the blocks: t (...,) in [0, 1] and z (..., d) -> (..., d)."""
        guided: Tensor = silu(self.time_embed(t) + self.cond_embed(z))
        return guided

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the clean tokens: x (..., p), t (...,) in [0, 1], z (..., d) -> (..., p)."""
        guide = self.guide(t, z)
        h = self.input_proj(x)
        for block in self.res_blocks:
            h = block(h, block.modulation(guide))  # type: ignore[operator]
        clean: Tensor = self.final_layer(h, self.final_layer.modulation(guide))
        return clean


class TimeEmbedding(nn.Module):
    """Times (...,) in [0, 1] -> (..., d).

    Args:
        width: d.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embed."""
        code = time_code(t * TIME_SCALE)
        embedded: Tensor = self.mlp(code.to(next(self.parameters()).dtype))
        return embedded


class ResidualBlock(nn.Module):
    """h + gate * MLP(LN(h) (1 + scale) + shift).

    Args:
        width: d.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def modulation(self, guide: Tensor) -> Tensor:
        """Return shift, scale and gate side by side: (..., d) -> (..., 3 d); the guide has its SiLU already."""
        modulation: Tensor = self.adaLN_modulation[1](guide)
        return modulation

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """(..., d) -> (..., d); the modulation broadcasts against h."""
        shift, scale, gate = modulation.chunk(3, -1)
        refined: Tensor = h + gate * self.mlp(self.in_ln(h) * (1 + scale) + shift)
        return refined


class FinalLayer(nn.Module):
    """Linear(LN(h) (1 + scale) + shift); the LN has no weights of its own.

    Args:
        width: d.
        length: p.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, length, bias=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, guide: Tensor) -> Tensor:
        """Return shift and scale side by side: (..., d) -> (..., 2 d)."""
        modulation: Tensor = self.adaLN_modulation[1](guide)
        return modulation

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        """(..., d) -> (..., p)."""
        shift, scale = modulation.chunk(2, -1)
        clean: Tensor = self.linear(layer_norm(h, h.shape[-1:], eps=EPSILON) * (1 + scale) + shift)
        return clean


def time_code(t: Tensor) -> Tensor:
    """Return the code (..., 256) of times (...,): cosines, then sines, of 128 frequencies from 1 down to 1/10000."""
    half = TIME_WIDTH // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def step(sampler: Sampler, x: Tensor, clean: Tensor, start: Tensor, index: int, steps: int) -> Tensor:
    """Return x after Euler step `index` of `steps`, from time index / steps.

    ode: the velocity of the flow is (f - x) / (1 - t), so a step of 1 / steps goes 1 / (steps - index) of the way to f.
    official: the velocity is taken as f - x_0, whose sum is the mean of all predictions: too narrow (its spread is a
    half to a sixth of the truth for Gaussian targets), but what the authors' figures were made with.
    """
    if sampler == "ode":
        return torch.lerp(x, clean, 1 / (steps - index))
    return torch.add(x, clean - start, alpha=1 / steps)


def sample(net: FlowNet, start: Tensor, z: Tensor, *, steps: int, sampler: Sampler) -> Tensor:
    """Follow the flow, as plainly as it can be written; `zoo_forecast.folded` gives the same faster.

    Args:
        net: f.
        start: x_0 = prototype + noise, (S, N, p) for S samples of N tokens.
        z: (N, d) conditions of the tokens.
        steps: Euler steps.
        sampler: ode or official.

    Returns:
        (S, N, p) clean tokens.
    """
    x, z = start, z.expand(len(start), -1, -1)
    for index in range(steps):
        t = torch.full(x.shape[:2], index / steps, device=x.device)
        x = step(sampler, x, net(x, t, z), start, index, steps)
    return x
