"""Run Aurora on a batch of normalised series of one length: pictures, guidance, conditions, sample paths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo_forecast.aurora import Aurora, Guidance, Reading
from zoo_forecast.folded import Graphs
from zoo_forecast.mode import Mode
from zoo_forecast.picture import draw, periods


class Engine:
    """Aurora, ready to run. All tensors are on the module's device and of its type, unless said otherwise.

    Args:
        module: the network, in evaluation mode.
        mode: how it is run.
    """

    def __init__(self, module: Aurora, mode: Mode) -> None:
        self.module, self.mode = module, mode
        self.follow: Callable[..., Tensor] = Graphs(module.flow)

    def read_texts(self, pieces: Tensor, lengths: Tensor) -> Tensor:
        """Return the tokens (B, K, d) of texts; arguments as of `TextEncoder.forward`."""
        tokens: Tensor = self.module.model.TextEncoder(pieces, lengths, attend_padding=self.mode.attend_padding)
        return tokens

    def read_series(
        self, series: Tensor, texts: Tensor | None, future: int, length: int, pictures: Tensor | None = None
    ) -> Reading:
        """Read series.

        Args:
            series: (B, L), normalised; whole tokens, or less than one.
            texts: (B, K, d) from `read_texts`, or None.
            future: F, tokens to come.
            length: q, points of a token.
            pictures: (B, 3, side, side) to look at instead of the series' own, in [-1, 1].
        """
        if pictures is None:
            side = self.module.model.VisionEncoder.model.picture
            pictures = draw(series, periods(series, shared=self.mode.shared_period), side)
        if not self.mode.keep_remainder:  # a series shorter than a token begins with its first value
            series = torch.cat([series[:, :1].expand(-1, max(0, length - series.shape[1])), series], 1)
        guidance = Guidance(self.module.model.VisionEncoder(pictures), texts)
        reading: Reading = self.module(series, guidance, future, length=length, resize=self.mode.resize)
        return reading

    def paths(self, reading: Reading, noise: Tensor, length: int, *, steps: int | None = None) -> Tensor:
        """Return sample paths (B, S, F q), normalised, fp32.

        Args:
            reading: of B series.
            noise: (B, S, F, p), fp32.
            length: q.
            steps: of the sampler, default the model's.
        """
        batch, samples, future, points = noise.shape
        start = reading.prototypes.float()[:, None] + noise
        # samples first: what tokens have in common broadcasts over them
        start = start.transpose(0, 1).reshape(samples, batch * future, points)
        z = reading.conditions.reshape(batch * future, -1)
        steps = steps or self.module.sampling_steps
        clean = self.follow(start, z, steps=steps, sampler=self.mode.sampler)
        tokens = clean.view(samples, batch, future, points).transpose(0, 1)
        return self.module.points(tokens, length, resize=self.mode.resize)
