"""Aurora (Wu et al., ICLR 2026, arXiv:2509.22295): series, picture of the series and text -> sample paths."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class Aurora(nn.Module):
    """The network; being written."""

    def __init__(
        self,
        token_length: int,
        width: int,
        feed_forward: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        distilled_tokens: int,
        prototypes: int,
        flow_blocks: int,
        sampling_steps: int,
        vision: Mapping[str, int],
        text: Mapping[str, int],
    ) -> None:
        super().__init__()
