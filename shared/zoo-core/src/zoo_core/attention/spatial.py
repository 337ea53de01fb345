"""Where a convolutional network looks: maps over pixels from features, for distillation and dataset matching."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

EPS = 1e-12  # keeps the map of features that are all zero finite: zero


def attention_map(
    features: Tensor,
    p: float = 2.0,
    *,
    reduce: Literal["sum", "mean", "max"] = "sum",
    norm: Literal["l2", "l1", "fro", "none"] = "l2",
) -> Tensor:
    """Return Q / ||Q||, Q the sum (mean, max) over channels of |F|^p (Zagoruyko and Komodakis, arXiv:1612.03928).

    Args:
        features: (B, C, H, W).
        p: power; 1 in DataDAM's description, 4 in its default, 2 where YOLO is distilled.
        reduce: over channels; sum and mean are the same after a norm.
        norm: of each map: l2 and fro are one thing for a map laid out as a vector (DataDAM's own `fro` divides by the
            square), l1 makes it sum to 1.

    Returns:
        (B, H, W), in fp32 or wider.

    Raises:
        ValueError: an unknown word.
    """
    if features.ndim != 4:
        raise ValueError(f"features have shape {tuple(features.shape)}, but must be (B, C, H, W)")
    wide = features if features.itemsize > 4 else features.float()
    powers = wide.abs().pow(p)
    if reduce == "sum":
        maps = powers.sum(1)
    elif reduce == "mean":
        maps = powers.mean(1)
    elif reduce == "max":
        maps = powers.amax(1)
    else:
        raise ValueError(f"reduce is {reduce!r}, but must be sum, mean or max")
    if norm == "none":
        return maps
    if norm not in ("l2", "fro", "l1"):
        raise ValueError(f"norm is {norm!r}, but must be l2, l1, fro or none")
    flat = functional.normalize(maps.flatten(1), p=1.0 if norm == "l1" else 2.0, dim=1, eps=EPS)
    return flat.reshape(maps.shape)
