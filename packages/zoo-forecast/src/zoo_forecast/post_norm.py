"""The Transformer of Vaswani et al. (arXiv:1706.03762): post-norm, ReLU. Keys are those of torch.nn's layers.

Aurora distils, connects and retrieves with it. Written out because torch's own layers know neither the masks of
`zoo_core.attention` nor a memory whose length differs from row to row without a table of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from zoo_core.attention import attend
from zoo_core.attention.masks import Mask
from zoo_core.attention.stages import merge_heads, split_heads


class MultiHead(nn.Module):
    """Attention whose three projections are one matrix: rows of q, k, v.

    Args:
        width: d.
        heads: how many; they divide d.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, memory: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix memory (B, M, d) into each token of x (B, N, d) -> (B, N, d)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            split_heads(linear(tokens, weight, bias), self.heads)
            for tokens, weight, bias in zip((x, memory, memory), weights, biases, strict=True)
        )
        mixed: Tensor = self.out_proj(merge_heads(attend(q, k, v, mask=mask).out))
        return mixed


class EncoderLayer(nn.Module):
    """x <- LN(x + MSA(x)); x <- LN(x + FFN(x)).

    Args:
        width: d.
        heads: of the attention.
        feed_forward: inner width of the FFN.
        dropout: share of values dropped in training.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attn = MultiHead(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix the tokens of x (B, N, d)."""
        x = self.norm1(x + self.dropout(self.self_attn(x, x, mask)))
        refined: Tensor = self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return refined


class DecoderLayer(nn.Module):
    """x <- LN(x + MSA(x)); x <- LN(x + MCA(x, memory)); x <- LN(x + FFN(x)). Arguments as of `EncoderLayer`."""

    def __init__(self, width: int, heads: int, feed_forward: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = MultiHead(width, heads), MultiHead(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, feed_forward), nn.Linear(feed_forward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix x (B, N, d) with itself and with memory (B, M, d), of which `mask` says what is there."""
        x = self.norm1(x + self.dropout(self.self_attn(x, x)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x, memory, mask)))
        refined: Tensor = self.norm3(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return refined


class Encoder(nn.Module):
    """Encoder layers, then a LayerNorm.

    Args:
        layers: how many; the other arguments are those of `EncoderLayer`.
    """

    def __init__(self, layers: int, width: int, heads: int, feed_forward: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feed_forward, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """(B, N, d) -> (B, N, d)."""
        for layer in self.layers:
            x = layer(x, mask)
        normed: Tensor = self.norm(x)
        return normed


class Decoder(nn.Module):
    """Decoder layers, then a LayerNorm.

    Args:
        layers: how many; the other arguments are those of `EncoderLayer`.
    """

    def __init__(self, layers: int, width: int, heads: int, feed_forward: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feed_forward, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor, mask: Mask | None = None) -> Tensor:
        """(B, N, d) and memory (B, M, d) -> (B, N, d)."""
        for layer in self.layers:
            x = layer(x, memory, mask)
        normed: Tensor = self.norm(x)
        return normed
