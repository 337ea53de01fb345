"""A sample's outputs as a cache keeps them: under what name, in what numbers, padded to what length.

fp32 keeps a teacher's own numbers, fp16 rounds, int8 rounds to 1/127 of each sample's largest value.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from zoo_core.errors import UsageError, ZooError

Form = Literal["fp32", "fp16", "int8"]
Name: TypeAlias = tuple[str, int]
"""A sample and which view of it (the number of its augmentation; 0 without)."""

SCALE = "|scale"


def named(names: Any) -> list[Name]:
    """Return samples as pairs of text and view.

    Raises:
        UsageError: it is none of the forms that `TeacherCache.read` takes.
    """
    if isinstance(names, Tensor | np.ndarray):
        names = names.tolist()
    found: list[Name] = []
    for name in names:
        if isinstance(name, list | tuple) and len(name) == 2:
            found.append((str(name[0]), int(name[1])))
        elif isinstance(name, str | int):
            found.append((str(name), 0))
        else:
            raise UsageError(f"{name!r} names no sample.", "Give numbers, texts, or pairs of these and a view.")
    return found


def together(rows: list[Tensor], frames: int | None) -> Tensor:
    """Stack samples; those of different lengths are filled up with zeros first."""
    if frames is None and len({x.shape for x in rows}) == 1:
        return torch.stack(rows)
    if rows[0].ndim == 0:  # a scale, say
        return torch.stack(rows)
    longest = max(frames or 0, *(len(x) for x in rows))
    return torch.stack([torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])]) for x in rows])


def encoded(tensors: dict[str, Tensor], form: Form) -> dict[str, Tensor]:
    """Return a batch of outputs in a form; int8 puts each sample's scale beside its numbers. Whole numbers stay.

    Raises:
        ZooError: an output is not finite, or too large for the form.
    """
    made: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        x = tensor.detach().to("cpu")
        if not x.is_floating_point():
            made[key] = x
            continue
        if not bool(x.isfinite().all()):
            raise ZooError(
                f"The teacher's output {key!r} is not finite.", "If it runs in fp16, run it in bf16-true or fp32."
            )
        if form == "fp32":
            made[key] = x.float()
        elif form == "fp16":
            made[key] = x.half()
            if not bool(made[key].isfinite().all()):
                raise ZooError(
                    f"The teacher's output {key!r} is too large for fp16.", "Keep the cache in fp32 or int8."
                )
        else:
            largest = x.float().abs().flatten(1).amax(dim=1) if x.ndim > 1 else x.float().abs()
            scale = torch.where(largest > 0, largest / 127, 1.0)
            made[key] = (x.float() / scale.reshape(-1, *[1] * (x.ndim - 1))).round().to(torch.int8)
            made[key + SCALE] = scale
    return made


def decoded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what `encoded` took, in fp32."""
    made = {}
    for key, x in tensors.items():
        if key.endswith(SCALE):
            continue
        scale = tensors.get(key + SCALE)
        if scale is not None:
            made[key] = x.float() * scale.reshape(-1, *[1] * (x.ndim - 1))
        else:
            made[key] = x.float() if x.is_floating_point() else x
    return made
