"""Modality distillation (section 3.2): a picture or a text becomes K tokens of the width of the series' tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from zoo_core.attention import Padding
from zoo_forecast.bert import BERT
from zoo_forecast.post_norm import Decoder
from zoo_forecast.vit import ViT

OFFICIAL_ROWS = 125  # states of a text that upstream distils from, whatever the length of the text


class VisionEncoder(nn.Module):
    """Pictures -> K tokens each.

    Args:
        tower: sizes of the ViT.
        tokens: K.
        width: d.
        heads: of the distilling attention.
        feed_forward: of the distilling layer.
        dropout: in the distilling layer.
    """

    def __init__(
        self, tower: Mapping[str, int], tokens: int, width: int, heads: int, feed_forward: int, *, dropout: float
    ) -> None:
        super().__init__()
        self.model = ViT(**tower)
        self.projection = nn.Linear(tower["width"], width)
        self.target_vision_tokens = nn.Parameter(torch.randn(tokens, width))
        self.cross_vision = Decoder(1, width, heads, feed_forward, dropout=dropout)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) -> (B, K, d)."""
        patches = self.projection(self.model(pictures))
        distilled: Tensor = self.cross_vision(self.target_vision_tokens.expand(len(patches), -1, -1), patches)
        return distilled


class TextEncoder(nn.Module):
    """Texts -> K tokens each. Arguments as of `VisionEncoder`, the tower being BERT."""

    def __init__(
        self, tower: Mapping[str, int], tokens: int, width: int, heads: int, feed_forward: int, *, dropout: float
    ) -> None:
        super().__init__()
        self.model = BERT(**tower)
        self.projection = nn.Linear(tower["width"], width)
        self.target_text_tokens = nn.Parameter(torch.randn(tokens, width))
        self.cross_text = Decoder(1, width, heads, feed_forward, dropout=dropout)

    def forward(self, pieces: Tensor, lengths: Tensor, *, attend_padding: bool = False) -> Tensor:
        """Read texts.

        Args:
            pieces: (B, T) numbers of word pieces, [CLS] ... [SEP], then padding.
            lengths: (B,) of the texts with [CLS] and [SEP]; at least 3.
            attend_padding: distil from the states behind the text too, as upstream does: the result then depends on
                how far the text was padded.

        Returns:
            (B, K, d).
        """
        states = self.model(pieces, lengths)
        if attend_padding:
            # upstream drops [CLS] and [SEP], moves up what follows, padding too, and cuts or fills to 125 rows
            place = torch.arange(1, states.shape[1] - 1, device=states.device)
            kept = place + (place >= lengths[:, None] - 1)
            rows = states.gather(1, kept[..., None].expand(-1, -1, states.shape[2]))
            rows, there = pad(rows, (0, 0, 0, OFFICIAL_ROWS - rows.shape[1])), None
        else:
            rows, there = states[:, 1:-1], Padding(lengths - 2)
        words = self.projection(rows)
        distilled: Tensor = self.cross_text(self.target_text_tokens.expand(len(words), -1, -1), words, there)
        return distilled
