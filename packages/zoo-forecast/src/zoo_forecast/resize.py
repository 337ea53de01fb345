"""Tokens of any length through layers made for one length: matrices that resize a signal, and the weights with it.

Aurora's layers are made for tokens of p = 48 points. For tokens of q points their weights are resampled (section 3.1 of
the paper, after FlexiViT, arXiv:2212.08013). Two ways, which agree for q = p:

- official: with M (q x p) of linear interpolation without antialiasing, the weight A becomes sqrt(q/p) A M^+ and an
  output v becomes sqrt(q/p) (M^T)^+ v. Both factors are with the authors: a constant of 1 leaves as about sqrt(p/q).
- even: a token is brought to p points by antialiased linear interpolation and the output to q points likewise. Rows of
  such a matrix sum to 1, so that a level, and with it the width of a forecast, is the same for every q.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Resize = Literal["official", "even"]


def into(way: Resize, length: int, own: int, like: Tensor) -> Tensor:
    """Return (length, own): a token x (..., length) enters a layer made for `own` points as x @ this.

    Args:
        way: official or even.
        length: q, points of a token.
        own: p, points that the layer is made for.
        like: a tensor of the device and type that are wanted.
    """
    return _kept(f"{way} into", length, own, like.device, like.dtype)


def out_of(way: Resize, length: int, own: int, like: Tensor) -> Tensor:
    """Return (own, length): an output v (..., own) becomes a token of `length` points as v @ this. See `into`."""
    return _kept(f"{way} out", length, own, like.device, like.dtype)


@cache  # none is forgotten: a CUDA graph reads it where it lies
def _kept(kind: str, length: int, own: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # made outside of inference mode, so that training can use it too
    with torch.inference_mode(False), torch.no_grad():
        return _matrix(kind, length, own).to(device, dtype)


def _matrix(kind: str, length: int, own: int) -> Tensor:
    if length == own:
        return torch.eye(own, dtype=torch.float64)
    if kind == "even into":
        return interpolation(length, own, antialias=True).mT
    if kind == "even out":
        return interpolation(own, length, antialias=True).mT
    lifted: Tensor = torch.linalg.pinv(interpolation(own, length, antialias=False).mT)  # (q, p)
    lifted = lifted * (length / own) ** 0.5
    return lifted if kind == "official into" else lifted.mT


def interpolation(points: int, wanted: int, *, antialias: bool) -> Tensor:
    """Return (wanted, points) in float64: linear interpolation of a signal, ends not aligned."""
    unit = torch.eye(points, dtype=torch.float64)
    # along the first axis alone: the other keeps its size, so nothing is mixed there
    resized: Tensor = interpolate(unit[None, None], size=(wanted, points), mode="bilinear", antialias=antialias)
    return resized[0, 0]
