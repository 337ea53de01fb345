"""The Vision Transformer (Dosovitskiy et al., arXiv:2010.11929). Keys are those of the published checkpoint.

The pooler is in the checkpoint and unused here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu

from zoo_core.attention import attend
from zoo_core.attention.stages import merge_heads, split_heads

EPSILON = 1e-12


class ViT(nn.Module):
    """A picture -> one state for each of its patches.

    Args:
        width: d.
        layers: how many.
        heads: of each layer; they divide d.
        feed_forward: inner width of a layer.
        patch: side of a patch in pixels.
        picture: side of the picture in pixels, a multiple of the patch's.
    """

    def __init__(self, *, width: int, layers: int, heads: int, feed_forward: int, patch: int, picture: int) -> None:
        super().__init__()
        self.patch, self.picture = patch, picture
        self.embeddings = _Embeddings(width, patch, (picture // patch) ** 2)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(width, heads, feed_forward) for _ in range(layers))})
        self.layernorm = nn.LayerNorm(width, eps=EPSILON)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) -> states (B, patches, d), row by row from the top; one channel stands for three equal."""
        x = self.embeddings(pictures)
        for block in self.encoder["layer"]:  # type: ignore[union-attr]
            x = block(x)
        states: Tensor = self.layernorm(x)[:, 1:]  # without the state of the whole picture, which comes first
        return states


class _Embeddings(nn.Module):
    def __init__(self, width: int, patch: int, patches: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, patches + 1, width) * 0.02)
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, patch, stride=patch)})

    def forward(self, pictures: Tensor) -> Tensor:
        layer = self.patch_embeddings["projection"]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        if pictures.shape[1] == 1:  # three equal channels: sum their weights instead, a third of the work
            weight = weight.sum(1, keepdim=True)
        patches = conv2d(pictures, weight, layer.bias, stride=layer.stride).flatten(2).mT  # type: ignore[arg-type]
        whole = self.cls_token.expand(len(pictures), -1, -1)
        return torch.cat([whole, patches], 1) + self.position_embeddings


class Block(nn.Module):
    """x <- x + MSA(LN(x)); x <- x + FFN(LN(x)), FFN with GELU. Arguments as of `ViT`."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "attention": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(width, width)}),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, feed_forward)})
        self.output = nn.ModuleDict({"dense": nn.Linear(feed_forward, width)})
        self.layernorm_before = nn.LayerNorm(width, eps=EPSILON)
        self.layernorm_after = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of x (B, N, d)."""
        y = self.layernorm_before(x)
        q, k, v = (split_heads(project(y), self.heads) for project in self.attention["attention"].values())  # type: ignore[operator]
        x = x + self.attention["output"]["dense"](merge_heads(attend(q, k, v).out))  # type: ignore[index]
        y = gelu(self.intermediate["dense"](self.layernorm_after(x)))
        refined: Tensor = x + self.output["dense"](y)
        return refined
