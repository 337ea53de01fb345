"""BERT (Devlin et al., arXiv:1810.04805), the encoder alone. Keys are those of the published checkpoints.

It also reads MiniLM, which is BERT of another size. The pooler is in the checkpoints and unused here.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from zoo_core.attention import Padding, attend
from zoo_core.attention.stages import merge_heads, split_heads

EPSILON = 1e-12


class BERT(nn.Module):
    """Word pieces -> one state for each.

    Args:
        width: d.
        layers: how many.
        heads: of each layer; they divide d.
        feed_forward: inner width of a layer.
        vocabulary: number of word pieces.
        positions: longest text in word pieces.
    """

    def __init__(
        self, *, width: int, layers: int, heads: int, feed_forward: int, vocabulary: int, positions: int
    ) -> None:
        super().__init__()
        self.positions = positions
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, width),
                "position_embeddings": nn.Embedding(positions, width),
                "token_type_embeddings": nn.Embedding(2, width),
                "LayerNorm": nn.LayerNorm(width, eps=EPSILON),
            }
        )
        self.encoder = _Stack(Block(width, heads, feed_forward) for _ in range(layers))
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, pieces: Tensor, lengths: Tensor) -> Tensor:
        """Read texts.

        Args:
            pieces: (B, T) numbers of word pieces, padded at the end; T is at most `positions`.
            lengths: (B,) of the texts, with [CLS] and [SEP]; what lies behind them is not attended to.

        Returns:
            (B, T, d) states; those behind a text's length mean nothing.
        """
        e = self.embeddings
        place = torch.arange(pieces.shape[1], device=pieces.device)
        kind = torch.zeros_like(place)  # all is of the first kind: there is no second sentence
        x = e["word_embeddings"](pieces) + e["position_embeddings"](place) + e["token_type_embeddings"](kind)
        x = e["LayerNorm"](x)
        there = Padding(lengths)
        for block in self.encoder.layer:
            x = block(x, there)
        states: Tensor = x
        return states


class _Stack(nn.Module):
    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(blocks)


class Block(nn.Module):
    """x <- LN(x + MSA(x)); x <- LN(x + FFN(x)), FFN with GELU. Arguments as of `BERT`."""

    def __init__(self, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": _Output(width, width),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, feed_forward)})
        self.output = _Output(feed_forward, width)

    def forward(self, x: Tensor, there: Padding) -> Tensor:
        """Mix the tokens of x (B, T, d) that are there."""
        q, k, v = (split_heads(project(x), self.heads) for project in self.attention["self"].values())  # type: ignore[operator]
        x = self.attention["output"](merge_heads(attend(q, k, v, mask=there).out), x)
        refined: Tensor = self.output(gelu(self.intermediate["dense"](x)), x)
        return refined


class _Output(nn.Module):
    """LN(x + Linear(y))."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(x + self.dense(y))
        return normed
