"""Noise that belongs to a series: the same whoever else is in the batch, on any device, however many samples are drawn.

Each value is a function of the seed, the item, and the place (sample, token, point) alone, by a generator that counts
(SplitMix64, Steele et al. 2014, as a hash of key and counter) and Box and Muller's transform.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo_forecast.transfer import to_device

SAMPLE, TOKEN = 1 << 34, 1 << 14  # strides of the counter: up to 2^20 tokens of up to 2^14 points


def key(seed: int, item: str) -> int:
    """Return the key of an item, a signed 64-bit number."""
    digest = hashlib.blake2b(f"{seed}/{item}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def normal(
    keys: Sequence[int], samples: int, tokens: int, points: int, *, first: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:  # fmt: skip
    """Return standard normal numbers (B, S, F, p), fp32.

    Args:
        keys: of the B items, from `key`.
        samples: S.
        tokens: F.
        points: p.
        first: number of the first token, where earlier ones were drawn before.
        device: where they are made.
    """
    sample, token, point = (torch.arange(size, device=device) for size in (samples, tokens, points))
    place = sample[:, None, None] * SAMPLE + (token[:, None] + first) * TOKEN + point
    own = to_device(torch.tensor(keys), place.device)[:, None, None, None]
    bits = _mixed(own + place * _signed(0x9E3779B97F4A7C15))
    high, low = ((half.double() + 0.5) * 2.0**-32 for half in (_shifted(bits, 32), bits & 0xFFFFFFFF))
    return ((-2 * high.log()).sqrt() * (2 * math.pi * low).cos()).float()


def coherent(noise: Tensor, before: Tensor | None = None, *, coherence: float) -> Tensor:
    """Return noise (B, S, F, p) whose tokens follow each other: e_i = c e_(i-1) + sqrt(1 - c^2) z_i.

    Every token stays standard normal. Tokens that do not know each other (c = 0, as upstream has it) make sums over the
    horizon too certain.

    Args:
        noise: (B, S, F, p), independent.
        before: (B, S, p), the token before the first one, or None.
        coherence: c, from 0 to 1.
    """
    fresh = math.sqrt(1 - coherence**2)
    tokens = []
    for token in noise.unbind(2):
        before = token if before is None else coherence * before + fresh * token
        tokens.append(before)
    return torch.stack(tokens, 2)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser; products wrap around as they should."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """X >> bits with zeros from the left, as of an unsigned number."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
