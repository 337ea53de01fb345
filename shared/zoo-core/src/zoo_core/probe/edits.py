"""Edits: what a probe changes at a point. They are values: hashable, comparable, told in a run record by their text.

The named three leave fused attention fused, because they act before or after it (distill spec 3.3):

- a head's output times alpha: pruning (0), reinforcement (2), gates;
- a head's output toward its own value, (1 - u) A V + u V = ((1 - u) A + u I) V: perturbed attention guidance, softly;
- a bias b_j added to every score of key j, which multiplies its unnormalised weight by exp(b_j): emphasis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from zoo_core.errors import UsageError
from zoo_core.probe.points import Point


@dataclass(frozen=True)
class ScaleHeads:
    """Multiply head h's output by alpha[h].

    Args:
        alpha: one factor a head.
    """

    alpha: tuple[float, ...]

    def __call__(self, head_out: Tensor) -> Tensor:
        """(B, H, N, d) -> the same shape."""
        return head_out * _of_heads(self.alpha, head_out)


@dataclass(frozen=True)
class TowardValue:
    """Move head h's output toward what the identity as attention map would give: (1 - u) out + u v.

    Args:
        u: one share in [0, 1] a head.
    """

    u: tuple[float, ...]

    def __call__(self, head_out: Tensor, value: Tensor) -> Tensor:
        """(B, H, N, d), and values (B, Hkv, N, d) of as many positions -> (B, H, N, d)."""
        if value.shape[-2] != head_out.shape[-2]:
            raise UsageError("Moving toward the value needs self-attention: as many keys as queries.")
        if value.shape[1] != head_out.shape[1]:
            value = value.repeat_interleave(head_out.shape[1] // value.shape[1], dim=1)
        share = _of_heads(self.u, head_out)
        return (1 - share) * head_out + share * value


@dataclass(frozen=True)
class KeyBias:
    """Add b[j] to the score of every query with key j.

    Args:
        b: one number a key; log c multiplies the weight of a key by c before rows are normalised.
    """

    b: tuple[float, ...]


Change: TypeAlias = ScaleHeads | TowardValue | KeyBias | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """A change at a point.

    Args:
        point: where; `ScaleHeads` and `TowardValue` act at `head_out`, `KeyBias` at the attention module (`in`), any
            other function at `in`, `out` or `head_out`. Functions must be hashable, as all of a run's settings.
        change: what is done; (tensor) -> tensor of the same shape.
        heads: which heads a function changes, of a tensor (B, H, ...); None: all. Named changes have a number a head.
        when: which samples are changed: (the tensor at the point) -> (B,) bool; None: all. So one call computes samples
            with and without the edit. It sees the tensor alone, because checkpointing may compute a part again.

    Raises:
        UsageError: heads of a named change, or at a point without heads; `when` of a `KeyBias`.
    """

    point: Point
    change: Change
    heads: tuple[int, ...] | None = None
    when: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.when is not None and isinstance(self.change, KeyBias):
            raise UsageError(f"{self.point}: a bias of keys is for all samples.", "Leave `when` out.")
        if self.heads is None:
            return
        if isinstance(self.change, ScaleHeads | TowardValue | KeyBias) or self.point.what in ("in", "out"):
            raise UsageError(
                f"{self.point}: heads are chosen for functions of tensors (B, H, ...) alone.",
                "Give the named changes 1 or 0 for the heads that they leave alone.",
            )

    @property
    def applied(self) -> Any:
        """The change, to these heads of these samples."""
        change: Any = self.change if self.heads is None else _OnHeads(self.change, self.heads)  # type: ignore[arg-type]
        return change if self.when is None else _OnSamples(change, self.when)


@dataclass(frozen=True)
class _OnSamples:
    change: Callable[..., Tensor]
    when: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor, *value: Tensor) -> Tensor:
        chosen = self.when(x)
        if chosen.shape != x.shape[:1] or chosen.dtype != torch.bool:
            raise UsageError(
                f"`when` gave {tuple(chosen.shape)} of {chosen.dtype} for {len(x)} samples.", "Give (B,) booleans."
            )
        return torch.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), self.change(x, *value), x)


@dataclass(frozen=True)
class _OnHeads:
    change: Callable[[Tensor], Tensor]
    heads: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        if outside := [head for head in self.heads if not 0 <= head < x.shape[1]]:
            raise UsageError(f"There is no head {outside[0]}.", f"Heads count from 0 to {x.shape[1] - 1}.")
        chosen = torch.zeros(x.shape[1], dtype=torch.bool, device=x.device)
        chosen[list(self.heads)] = True
        return torch.where(chosen.reshape(-1, *[1] * (x.ndim - 2)), self.change(x), x)


def _of_heads(values: tuple[float, ...], head_out: Tensor) -> Tensor:
    if len(values) != head_out.shape[1]:
        raise UsageError(f"{len(values)} values were given for {head_out.shape[1]} heads.", "Give one for each head.")
    return head_out.new_tensor(values)[:, None, None]
