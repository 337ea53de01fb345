"""The Vision Transformer (Dosovitskiy et al., arXiv:2010.11929). Keys are those of the published checkpoint.

The pooler is in the checkpoint and unused here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

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
        self.encoder = _Stack(Block(width, heads, feed_forward) for _ in range(layers))
        self.layernorm = nn.LayerNorm(width, eps=EPSILON)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) -> states (B, patches, d), row by row from the top; one channel stands for three equal."""
        x = self.embeddings(pictures)
        for block in self.encoder.layer:
            x = block(x)
        states: Tensor = self.layernorm(x)[:, 1:]  # without the state of the whole picture, which comes first
        return states


class _Embeddings(nn.Module):
    def __init__(self, width: int, patch: int, patches: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position_embeddings = nn.Parameter(torch.randn(1, patches + 1, width) * 0.02)
        self.patch_embeddings = _Patches(width, patch)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch_embeddings(pictures)
        whole = self.cls_token.expand(len(pictures), -1, -1)
        return torch.cat([whole, patches], 1) + self.position_embeddings


class _Patches(nn.Module):
    """A linear layer of each patch; the checkpoint has its weight as that of a convolution."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, pictures: Tensor) -> Tensor:
        weight = self.projection.weight
        if pictures.shape[1] == 1:  # three equal channels: the sum of their weights does it in a third of the work
            weight = weight.sum(1, keepdim=True)
        patches = pictures.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)  # (B, C, h, w, p, p)
        rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        return linear(rows, weight.flatten(1), self.projection.bias)


class _Stack(nn.Module):
    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(blocks)


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
