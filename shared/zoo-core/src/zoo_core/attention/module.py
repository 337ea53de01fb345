"""Attention as a module: a projection, positions, `attend`, a combination of heads and an output, each replaceable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from zoo_core.attention.biases import Bias
from zoo_core.attention.cache import Cache
from zoo_core.attention.masks import Mask, as_mask
from zoo_core.attention.plans import Head, Plan
from zoo_core.attention.positions import RoPE
from zoo_core.attention.stages import Combined, Decay, Fused, Projection, Separate, Sizes, Stage, merge_heads
from zoo_core.attention.taps import Taps, tapped
from zoo_core.errors import did_you_mean

FORMAT = "zoo-attention/1"


class Mixed(NamedTuple):
    """What a module gives: x (B, N, D), and by name what taps captured and what the heads' combination did."""

    x: Tensor
    aux: Mapping[str, Tensor] = {}


class Project(Protocol):
    """A stage that makes q, k and v: builds a module (x, context) -> `Projected`."""

    def build(self, sizes: Sizes) -> nn.Module:
        """Return the module."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return its name and parameters."""
        ...


class Combine(Project, Protocol):
    """A stage that joins heads: builds a module (head_out, x) -> `Combined`, of this width."""

    def width(self, sizes: Sizes) -> int:
        """Return the width after it."""
        ...


class Attention(nn.Module):
    """Attention over tokens (B, N, D).

    Args:
        dim: D.
        heads: query heads.
        kv_heads: key and value heads, default as many; they divide the query heads unless the projection says who
            shares.
        head_dim: d, default dim // heads.
        v_head_dim: width of values, default d.
        project: where q, k and v come from, default `Separate()`.
        position: `RoPE` or `Decay`, or None.
        combine: how heads become tokens, default side by side.
        output: the last layer, default without bias.
        name: of the layer, in caches and descriptions.

    Raises:
        ValueError: sizes do not divide.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        v_head_dim: int | None = None,
        project: Project | None = None,
        position: RoPE | Decay | None = None,
        combine: Combine | None = None,
        output: Projection | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % heads:
            raise ValueError(f"{heads} heads do not divide width {dim}; give head_dim")
        width = head_dim or dim // heads
        sizes = Sizes(dim, heads, kv_heads or heads, width, v_head_dim or width)
        if project is None and heads % sizes.kv_heads:
            raise ValueError(f"{sizes.kv_heads} key heads do not divide {heads} query heads")
        self.sizes, self.name = sizes, name
        self.stages = (project or Separate(), position, combine, output or Projection())
        self.project = self.stages[0].build(sizes)
        self.decay = position.build(sizes) if isinstance(position, Decay) else None
        self.rope = position if isinstance(position, RoPE) else None
        self.combine = combine.build(sizes) if combine is not None else None
        after = combine.width(sizes) if combine is not None else sizes.heads * sizes.v_head_dim
        self.output = nn.Linear(after, dim, bias=self.stages[3].bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
        bias: Bias | None = None,
        plan: tuple[Head, ...] | None = None,
        cache: Cache | None = None,
        taps: Taps | None = None,
    ) -> Mixed:
        """Mix tokens.

        Args:
            x: (B, N, D).
            context: (B, M, D) where keys and values come from, default x.
            mask: which pairs exist; see `zoo_core.attention.attend`.
            bias: added to the scores.
            plan: what each key head may see besides, a layer of a `Plan`.
            cache: earlier tokens; x are the ones after them.
            taps: what to capture and edit.

        Raises:
            ValueError: shapes do not fit, or arguments do not go together.
        """
        taps = taps or Taps()
        mask = as_mask(mask)
        if plan is not None:
            wanted = Plan((tuple(plan),)).mask(0, self.sizes.heads)
            mask = wanted if mask is None else mask & wanted
        q, k, v, kv_map = self.project(x, x if context is None else context)
        if self.rope is not None:
            before = cache.length(self.name) if cache is not None else 0
            k = self.rope(k, torch.arange(before, before + k.shape[2], device=x.device))
            first = before if context is None else k.shape[2]  # queries of another sequence come after the keys
            q = self.rope(q, torch.arange(first, first + q.shape[2], device=x.device))
        if self.decay is not None:
            learnt: Bias = self.decay()
            bias = learnt if bias is None else learnt + bias
        if cache is not None:
            if taps.capture or taps.edit or kv_map is not None or context is not None:
                raise ValueError("with a cache there are no taps, no context and no heads of the projection's own")
            if self.name is None:
                raise ValueError("with a cache the layer needs a name, by which its keys are kept")
            cache.append(self.name, k, v)
            head_out, aux = cache.attend(self.name, q, mask=mask, bias=bias), {}
        else:
            result = tapped(taps, q, k, v, mask=mask, bias=bias, kv_map=kv_map)
            head_out, aux = result.out, dict(result.aux)
        combined = Combined(merge_heads(head_out)) if self.combine is None else self.combine(head_out, x, taps)
        out = taps.edited("out", self.output(combined.x))
        aux |= combined.aux
        if taps.wants("out"):
            aux["out"] = out
        return Mixed(out, aux)

    def describe(self) -> dict[str, Any]:
        """Return what it is as JSON has it; equal descriptions are equal architectures."""
        stages = zip(("project", "position", "combine", "output"), self.stages, strict=True)
        described = {name: None if stage is None else _describe(stage) for name, stage in stages}
        return {"format": FORMAT, **self.sizes._asdict(), **described, "name": self.name}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], *, stages: Iterable[type[Stage]] = ()) -> Attention:
        """Build what `describe` described.

        Args:
            description: as `describe` returned it, also after a way through JSON.
            stages: classes of stages of your own, or a paper's, that the description names.

        Raises:
            ValueError: it is no such description, or names an unknown stage.
        """
        if description.get("format") != FORMAT:
            raise ValueError(f"the description has format {description.get('format')!r}, not {FORMAT!r}")
        known: dict[str, Any] = {kind.__name__: kind for kind in (RoPE, Decay, Separate, Fused, Projection, *stages)}
        given = {key: value for key, value in description.items() if key != "format"}
        for place in ("project", "position", "combine", "output"):
            if (stage := given[place]) is not None:
                arguments = dict(stage)
                name = arguments.pop("stage")
                if name not in known:
                    raise ValueError(f"the description names the stage {name!r}. {did_you_mean(name, known)}")
                tupled = {key: tuple(x) if isinstance(x, list) else x for key, x in arguments.items()}
                given[place] = known[name](**tupled)
        return cls(given.pop("dim"), given.pop("heads"), **given)


def _describe(stage: Any) -> dict[str, Any]:
    if isinstance(stage, RoPE):
        return {"stage": "RoPE", "base": stage.base, "pairing": stage.pairing, "dims": stage.dims}
    described: dict[str, Any] = stage.describe()
    return described
