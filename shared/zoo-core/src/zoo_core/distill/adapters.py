"""Bridges between a student's tensors and a teacher's: for width, heads, tokens, depth and classes (distill spec 3.6).

Modules here train with the student (give them to a `Term`). The rest are values: transforms of a teacher, whose text is
part of its fingerprint, or functions that say which layer goes with which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.errors import UsageError


def linear(student: int, teacher: int) -> nn.Linear:
    """(..., student) -> (..., teacher), without bias; orthogonal rows or columns at the start, so norms are kept."""
    layer = nn.Linear(student, teacher, bias=False)
    nn.init.orthogonal_(layer.weight)
    return layer


def conv1x1(student: int, teacher: int) -> nn.Conv2d:
    """(B, student, H, W) -> (B, teacher, H, W), as `linear` at every place."""
    layer = nn.Conv2d(student, teacher, 1, bias=False)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight[:, :, 0, 0])
    return layer


def pca(student: int, features: Tensor) -> nn.Linear:
    """A `linear` whose columns begin as the main directions of a teacher's features, with their mean as bias.

    Args:
        student: width of the student, at most the teacher's.
        features: (n, D) of the teacher.
    """
    if student > features.shape[1]:
        raise UsageError(
            f"PCA cannot widen: the student has {student}, the teacher {features.shape[1]}.", "Use linear."
        )
    wide = features.double()
    _, _, directions = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    layer = nn.Linear(student, features.shape[1])
    with torch.no_grad():
        layer.weight.copy_(directions[:student].T)
        layer.bias.copy_(wide.mean(0))
    return layer


ADAPTERS = {"linear": linear, "conv1x1": conv1x1}
"""What a recipe may name; both take the two widths."""


@dataclass(frozen=True)
class LayerNormed:
    """Normalise a teacher's features over the last dimension, without scale or shift."""

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        wide = x if x.dtype == torch.float64 else x.float()
        return functional.layer_norm(wide, wide.shape[-1:])


@dataclass(frozen=True)
class Standardised:
    """Give a teacher's features mean 0 and deviation 1 in each dimension, by statistics of some of its features.

    Args:
        mean: (D,).
        std: (D,); dimensions that are constant have 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def by(cls, features: Tensor) -> Standardised:
        """Take the statistics of features (..., D), from a cache for example."""
        flat = features.double().flatten(0, -2)
        std = flat.std(0, correction=0)
        return cls(tuple(flat.mean(0).tolist()), tuple(torch.where(std > 0, std, 1.0).tolist()))

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        wide = x if x.dtype == torch.float64 else x.float()
        if wide.shape[-1] != len(self.mean):
            raise UsageError(f"Statistics of {len(self.mean)} dimensions do not fit features of {wide.shape[-1]}.")
        return (wide - wide.new_tensor(self.mean)) / wide.new_tensor(self.std)


@dataclass(frozen=True)
class PatchTokens:
    """Drop class and register tokens, which come first.

    Args:
        prefix: how many there are.
        grid: rows and columns that the rest must make.
    """

    prefix: int
    grid: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, prefix + h w, D) -> (B, h w, D)."""
        if x.shape[1] - self.prefix != self.grid[0] * self.grid[1]:
            raise UsageError(
                f"{x.shape[1]} tokens without the first {self.prefix} are no grid of {self.grid[0]} x {self.grid[1]}.",
                "Say how many class and register tokens the model has.",
            )
        return x[:, self.prefix :]


@dataclass(frozen=True)
class ClassMap:
    """Take a teacher's logits for the student's classes.

    Args:
        index: for each class of the student, the teacher's number of it.
        most_dropped: largest mean probability that the teacher may give to classes that the student lacks.
    """

    index: tuple[int, ...]
    most_dropped: float = 0.01

    @classmethod
    def between(cls, student: Sequence[str], teacher: Sequence[str], *, most_dropped: float = 0.01) -> ClassMap:
        """Match classes by name.

        Raises:
            UsageError: the teacher lacks some; names the first ones.
        """
        places = {name: number for number, name in enumerate(teacher)}
        lacking = [name for name in student if name not in places]
        if lacking:
            raise UsageError(
                f"The teacher knows no class {', '.join(map(repr, lacking[:3]))}"
                + (f" and {len(lacking) - 3} more." if len(lacking) > 3 else "."),
                "Rename the classes, or use a teacher that has them.",
            )
        return cls(tuple(places[name] for name in student), most_dropped)

    def dropped(self, logits: Tensor) -> float:
        """Return the mean probability of classes that are left out of logits (..., C)."""
        kept = torch.softmax(logits.float(), -1)[..., list(self.index)].sum(-1)
        return float(1 - kept.mean())

    def check(self, logits: Tensor) -> float:
        """Return `dropped`.

        Raises:
            UsageError: more than `most_dropped`.
        """
        share = self.dropped(logits)
        if share > self.most_dropped:
            raise UsageError(
                f"The teacher gives {share:.1%} of its probability to classes that the student lacks.",
                f"If that is meant, set most_dropped={share:.2g} or more.",
            )
        return share

    def __call__(self, logits: Tensor) -> Tensor:
        """(..., C of the teacher) -> (..., C of the student)."""
        return logits[..., list(self.index)]


def layer_map(student: int, teacher: int, how: Literal["uniform", "last"] = "uniform") -> list[int]:
    """Return, for each layer of a student, the layer of a deeper teacher that it learns from (counted from 0).

    Args:
        student: number of layers.
        teacher: number of layers, at least as many.
        how: `uniform` ends with the last and spreads evenly; `last` takes the last ones.
    """
    if not 0 < student <= teacher:
        raise UsageError(f"A student of {student} layers cannot learn from {teacher}.", "Map layers by hand.")
    if how == "last":
        return list(range(teacher - student, teacher))
    return [(number + 1) * teacher // student - 1 for number in range(student)]


def regroup(x: Tensor, heads: int) -> Tensor:
    """Cut the width of all heads together anew: (B, H, N, d) -> (B, heads, N, H d / heads) (MiniLMv2, section 3.1)."""
    width = x.shape[1] * x.shape[3]
    if width % heads:
        raise UsageError(f"A width of {width} cannot be cut into {heads} relation heads.", "Choose a divisor.")
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], heads, width // heads).transpose(1, 2)
