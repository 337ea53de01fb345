"""What losses share: widening, shapes, and the mean over the places of a sample."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo_core.errors import UsageError


def wide(x: Tensor) -> Tensor:
    """Return float64 as it is and everything else as float32."""
    return x if x.dtype == torch.float64 else x.float()


def same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse tensors of different shapes.

    Raises:
        UsageError: names both shapes, and the adapter that may help.
    """
    if student.shape == teacher.shape:
        return
    s, t = tuple(student.shape), tuple(teacher.shape)
    if len(s) != len(t):
        remedy = "They do not even have as many dimensions: are these the right points?"
    elif s[0] != t[0]:
        remedy = "They are not of one batch: give both the same samples."
    elif len(s) == 4 and s[1] == t[1]:
        remedy = "Their grids differ: distil attention maps with resize=true, or take points of equal stride."
    elif len(s) == 4 and s[2:] == t[2:]:
        remedy = f"Add the adapter conv1x1({s[1]}, {t[1]}) to the term."
    elif s[:-1] == t[:-1]:
        remedy = f"Add the adapter linear({s[-1]}, {t[-1]}) to the term, or for classes an index map."
    elif len(s) == 3 and s[2] == t[2]:
        remedy = "They have different numbers of tokens or frames: drop class tokens, or take points of equal stride."
    else:
        remedy = "Take points of equal grids or strides, and add an adapter for the width."
    raise UsageError(f"The student's tensor is {s}, the teacher's {t}.", remedy)


def mean_inside(values: Tensor, mask: Tensor | None, *, dims: int) -> Tensor:
    """Average over the places of each sample.

    Args:
        values: (B, places...), one number a place.
        mask: broadcastable to it from the left, e.g. (B, T); bool, or weights of at least 0. None: all places.
        dims: how many place dimensions there are (after B).

    Returns:
        (B,); 0 where nothing of a sample counts.
    """
    inside = tuple(range(1, dims + 1))
    if mask is None:
        return values.mean(dim=inside) if dims else values
    if not dims:
        raise UsageError("This loss has no places inside a sample that a mask could cover.", "Use `only` for samples.")
    mask = over(mask, values)
    share = mask.to(values.dtype).expand_as(values)
    kept = torch.where(mask > 0, values, 0.0) * share
    total = share.sum(dim=inside)
    return kept.sum(dim=inside) / torch.where(total > 0, total, 1.0)


def over(mask: Tensor, values: Tensor) -> Tensor:
    """Return a mask with ones appended to its shape until it lies over `values`.

    Raises:
        UsageError: it does not fit.
    """
    shape = mask.shape + (1,) * (values.ndim - mask.ndim)
    if len(shape) != values.ndim or any(m not in (1, v) for m, v in zip(shape, values.shape, strict=True)):
        raise UsageError(f"The mask is {tuple(mask.shape)}, and the places are {tuple(values.shape)}.")
    return mask.reshape(shape)
