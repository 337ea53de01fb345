"""A small reader of texts that comes with the package, for machines without MiniLM; it has learnt from MiniLM.

As MiniLM's third layer, it gives a state for each word piece, but with a table of words of rank 96 (ALBERT factorises
it so, arXiv:1909.11942) and three narrow layers: a fifth of the size. How it learns: `zoo_forecast.tower_task`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo_core.attention import Padding
from zoo_core.catalog import find
from zoo_core.errors import MissingDependencyError
from zoo_core.weights.files import load_strict, read_tensors
from zoo_core.weights.find import verify
from zoo_forecast import minilm
from zoo_forecast.bert import EPSILON, Block

LOG = logging.getLogger(__name__)


class LightTower(nn.Module):
    """Word pieces -> states like MiniLM's.

    Args:
        vocabulary: number of word pieces.
        rank: of the table of words.
        width: d of the layers.
        layers: how many.
        heads: of each layer; they divide d.
        feed_forward: inner width of a layer.
        positions: longest text in word pieces.
        states: width of the states.
    """

    def __init__(
        self,
        *,
        vocabulary: int = minilm.SIZES["vocabulary"],
        rank: int = 96,
        width: int = 192,
        layers: int = 3,
        heads: int = 6,
        feed_forward: int = 512,
        positions: int = minilm.PIECES,
        states: int = minilm.WIDTH,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, rank)
        self.widen = nn.Linear(rank, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.layer = nn.ModuleList(Block(width, heads, feed_forward) for _ in range(layers))
        self.out = nn.Linear(width, states)
        nn.init.normal_(self.position_embeddings.weight, std=0.02)

    def forward(self, pieces: Tensor, lengths: Tensor) -> Tensor:
        """Read texts: pieces (B, T), lengths (B,) -> states (B, T, d). Arguments and result as of `BERT.forward`."""
        place = torch.arange(pieces.shape[1], device=pieces.device)
        x = self.norm(self.widen(self.word_embeddings(pieces)) + self.position_embeddings(place))
        there = Padding(lengths)
        for block in self.layer:
            x = block(x, there)
        states: Tensor = self.out(x)
        return states

    @torch.no_grad()
    def begin_from(self, words: Tensor) -> None:
        """Let the table of words be the best one of its rank for a larger table (V, d')."""
        u, s, _ = torch.linalg.svd(words.float() - words.float().mean(0), full_matrices=False)
        rank = self.word_embeddings.embedding_dim
        table = u[:, :rank] * s[:rank]
        self.word_embeddings.weight.copy_(table / table.std())


def open_tower(path: Path | None = None, *, device: torch.device) -> LightTower:
    """Return the tower in evaluation mode.

    Args:
        path: of its weights; by default those of the package.
        device: where it runs.

    Raises:
        WeightsError: the file is of another network, or not the one that the manifest names.
    """
    if path is None:
        entry = find("aurora-small")
        (part,) = entry.manifest.parts
        path = entry.folder / "weights" / part.file
        verify(path, part, name=part.name, remedy=f"Install {entry.package} again.")
    tower = LightTower()
    load_strict(tower, read_tensors(path)[0], what=str(path))
    return tower.to(device).eval().requires_grad_(False)


def minilm_or_light(*, layers: int, device: torch.device) -> nn.Module:
    """Return MiniLM where it is installed, and else the light tower, which is said.

    Args:
        layers: of MiniLM, that run.
        device: where it runs.
    """
    try:
        return minilm.open_tower(layers=layers, device=device)
    except MissingDependencyError as error:
        LOG.warning("Texts are read by the light tower; MiniLM reads them better: %s", error.remedy)
        return open_tower(device=device)
