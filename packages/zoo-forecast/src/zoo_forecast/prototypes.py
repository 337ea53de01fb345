"""Prototype-guided flow matching (section 3.3): paths start from mixtures of learnt prototypes, not from pure noise."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo_core.attention import Causal
from zoo_forecast.post_norm import Encoder

Values: TypeAlias = NDArray[np.float64]
BANK_SEED = 42  # the authors'


class Retrieved(NamedTuple):
    """What is retrieved for each of F future tokens.

    Args:
        weights: (B, F, number of prototypes), which sum to 1.
        prototypes: (B, F, p) mixtures, each of mean 0 and variance 1.
    """

    weights: Tensor
    prototypes: Tensor


class Retriever(nn.Module):
    """What text and picture say about the series -> a start for each future token.

    Args:
        count: prototypes in the bank.
        length: p, points of each.
        width: d.
        heads: of its two layers.
        feed_forward: inner width.
        dropout: in them.
    """

    def __init__(self, count: int, length: int, width: int, heads: int, feed_forward: int, *, dropout: float) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(bank(count, length))
        self.retriever = nn.ModuleDict(
            {
                "input_emb": nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)),
                "encoder": Encoder(1, width, heads, feed_forward, dropout=dropout),
                "decoder": Encoder(1, width, heads, feed_forward, dropout=dropout),
                "head": nn.Sequential(
                    nn.Linear(width, feed_forward),
                    nn.LayerNorm(feed_forward),
                    nn.SiLU(),
                    nn.Dropout(dropout),
                    nn.Linear(feed_forward, count),
                ),
            }
        )

    def forward(self, guide: Tensor, future: int) -> Retrieved:
        """Retrieve for `future` tokens by the guide (B, n, d), of which the last token after mixing is asked."""
        net = self.retriever
        seen = net["encoder"](net["input_emb"](guide), Causal())
        asked = seen[:, -1:] + places(future, seen.shape[2], seen)
        weights = net["head"](net["decoder"](asked, Causal())).softmax(-1)
        mixed = weights @ self.prototypes
        # the scale is no way for gradients (upstream detaches it)
        mean, std = mixed.detach().mean(-1, keepdim=True), mixed.detach().std(-1, keepdim=True)
        return Retrieved(weights, (mixed - mean) / (std + 1e-5))


def places(count: int, width: int, like: Tensor) -> Tensor:
    """Return the sinusoidal code (count, width) of places 0 ... count - 1: sines at even entries, cosines at odd."""
    exponent = torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width
    angles = torch.arange(count, device=like.device, dtype=torch.float32)[:, None] * 10000.0**-exponent
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(like.dtype)


def bank(count: int, length: int) -> Tensor:
    """Return fresh prototypes (count, length): waves, logarithms, exponentials, lines and mixtures, with noise."""
    if torch.empty(0).device.type == "meta":
        return torch.empty(count, length)
    random = np.random.default_rng(BANK_SEED)
    x = np.linspace(0, 10, length)

    def sine(shift: float = 0.0) -> Values:
        frequency, amplitude, phase = random.uniform(0.3, 2), random.uniform(0.5, 2), random.uniform(0, math.pi)
        return np.asarray(amplitude * np.sin(frequency * x + phase + shift))

    def cosine() -> Values:
        return sine(math.pi / 2)

    def logarithm() -> Values:
        shift, slope, offset = random.uniform(0.5, 2), random.uniform(0.3, 1.5), random.uniform(-2, 2)
        return slope * np.log(x + shift) + offset

    def exponential() -> Values:
        growth, amplitude = random.uniform(-0.3, 0.3), random.uniform(0.5, 2)
        return amplitude * np.exp(growth * x)

    def line() -> Values:
        return random.uniform(-1, 1) * x + random.uniform(-2, 2)

    def mixture() -> Values:
        shares = random.dirichlet((1, 1, 1))
        curved = exponential() if random.random() < 0.5 else logarithm()
        return np.asarray(shares[0] * sine() + shares[1] * line() + shares[2] * curved)

    kinds = (sine, cosine, logarithm, exponential, line, mixture)
    chosen = random.choice(len(kinds), size=count, p=(0.2, 0.2, 0.15, 0.15, 0.1, 0.2))
    rows = [kinds[kind]() + random.normal(0, random.uniform(0.05, 0.2), length) for kind in chosen]
    return torch.tensor(np.stack(rows), dtype=torch.get_default_dtype())
