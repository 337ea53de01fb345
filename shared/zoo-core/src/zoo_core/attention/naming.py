"""Weights of other people's attention layers under our names: fused or separate, whatever they call them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo_core.attention.module import Attention
from zoo_core.attention.stages import Fused, Separate

# by layout: their name before "weight" and "bias" -> what it makes of us
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "zoo, separate": {"project.q.": ("q",), "project.k.": ("k",), "project.v.": ("v",), "output.": ("output",)},
    "zoo, fused": {"project.qkv.": ("q", "k", "v"), "output.": ("output",)},
    "timm": {"qkv.": ("q", "k", "v"), "proj.": ("output",)},
    "torch.nn.MultiheadAttention": {"in_proj_": ("q", "k", "v"), "out_proj.": ("output",)},
    "Llama": {"q_proj.": ("q",), "k_proj.": ("k",), "v_proj.": ("v",), "o_proj.": ("output",)},
    "BERT": {"self.query.": ("q",), "self.key.": ("k",), "self.value.": ("v",), "output.dense.": ("output",)},
}


def renamed(state: Mapping[str, Tensor], layer: Attention, *, prefix: str = "") -> dict[str, Tensor]:
    """Return the weights of a layer in one of `LAYOUTS` as a state dict of ours. Copies nothing that it need not.

    Rotary positions are not looked at: `zoo_core.attention.positions.repair` changes their pairing.

    Args:
        state: with the layer's keys, and others if there is a prefix.
        layer: whose projection is `Separate` or `Fused`.
        prefix: of the layer's keys, such as "blocks.3.attn.".

    Raises:
        ValueError: the keys are of no known layout, or shapes are not the layer's; says which.
    """
    own = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    for parts in LAYOUTS.values():
        names = {theirs + kind: (kind, ours) for theirs, ours in parts.items() for kind in ("weight", "bias")}
        if own and own.keys() <= names.keys() and {theirs + "weight" for theirs in parts} <= own.keys():
            break
    else:
        what = f"the keys {', '.join(sorted(own)[:8])}" if own else f"keys that begin with {prefix!r} (there are none)"
        raise ValueError(f"{what} are of no known layout ({', '.join(LAYOUTS)}); rename them, or give a prefix")
    sizes = layer.sizes
    widths = (
        sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim, sizes.kv_heads * sizes.v_head_dim
    )  # fmt: skip
    found: dict[str, Tensor] = {}
    for key, x in own.items():
        kind, ours = names[key]
        if len(ours) == 3 and len(x) != sum(widths):
            raise ValueError(f"{prefix}{key} has {len(x)} rows, but q, k and v of the layer have {widths}")
        pieces = torch.split(x, list(widths)) if len(ours) == 3 else (x,)
        found |= {f"{name}.{kind}": piece for name, piece in zip(ours, pieces, strict=True)}
    if isinstance(layer.stages[0], Fused):
        for kind in {"weight", "bias"} & {key.partition(".")[2] for key in found if key.startswith("q.")}:
            found[f"qkv.{kind}"] = torch.cat([found.pop(f"{name}.{kind}") for name in "qkv"])
    elif not isinstance(layer.stages[0], Separate):
        raise ValueError(f"the layer projects by {type(layer.stages[0]).__name__}, not by Separate or Fused")
    made = {key if key.startswith("output.") else f"project.{key}": x for key, x in found.items()}
    wanted = {key: tuple(x.shape) for key, x in layer.state_dict().items()}
    given = {key: tuple(x.shape) for key, x in made.items()}
    if wanted != given:
        wrong = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
        told = ", ".join(f"{key} is {given.get(key, 'missing')}, not {wanted.get(key, 'wanted')}" for key in wrong)
        raise ValueError(f"the weights do not fit the layer: {told}")
    return made
