"""Run Aurora on a batch of normalised series of one length: pictures, guidance, conditions, sample paths."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo_forecast import noise
from zoo_forecast.asked import Asked, Request
from zoo_forecast.aurora import Aurora, Guidance, Reading
from zoo_forecast.distil import OFFICIAL_ROWS
from zoo_forecast.folded import Graphs
from zoo_forecast.mode import Mode
from zoo_forecast.picture import draw, periods
from zoo_forecast.words import Pieces, pieces

FUTURE_TOKENS = 64  # at a time; a longer horizon goes on from the median path
CONTEXT_TOKENS = 22  # the longest context of the authors' runs, 1056 points of 48


class Engine:
    """Aurora, ready to run. All tensors are on the module's device and of its type, unless said otherwise.

    Args:
        module: the network, in evaluation mode.
        mode: how it is run.
    """

    def __init__(self, module: Aurora, mode: Mode) -> None:
        self.module, self.mode = module, mode
        self.follow: Callable[..., Tensor] = Graphs(module.flow)
        weight = module.model.fuse.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.shortest_texts = OFFICIAL_ROWS if mode.attend_padding else 0

    # -- what a Forecaster asks ----------------------------------------------------------------------------------------

    def cut(self, text: str | None) -> Pieces | None:
        """See `Runs.cut`."""
        if self.mode.attend_padding:  # as upstream: the first pieces are kept
            return pieces(text, limit=OFFICIAL_ROWS, newest=False)
        return pieces(text, limit=self.module.model.TextEncoder.model.positions)

    def group(self, one: Asked, request: Request) -> Hashable:
        """See `Runs.group`: of as many points, and all with a text or none; nothing is padded."""
        length, points = self._length(request), len(one.series.values)
        points = min(points, (request.context_tokens or CONTEXT_TOKENS) * length)
        if points > length and not self.mode.keep_remainder:
            points -= points % length  # without the oldest points, which fill no token
        return points, one.text is not None

    def draw(self, group: Sequence[Asked], request: Request) -> Tensor:
        """See `Runs.draw`."""
        points: int = self.group(group[0], request)[0]  # type: ignore[index]
        scaled = [one.series.scale(points, double=self.mode.double) for one in group]
        normal = torch.tensor(np.stack([one[0] for one in scaled]), dtype=self.dtype, device=self.device)
        told = [one.text for one in group if one.text is not None]
        paths = self._paths(normal, torch.stack(told) if told else None, [one.key for one in group], request)
        mean, std = (torch.tensor([one[n] for one in scaled], dtype=torch.float64) for n in (1, 2))
        return paths.double().cpu() * std[:, None, None] + mean[:, None, None]

    def _length(self, request: Request) -> int:
        return request.token_length or self.module.token_length

    def _paths(self, series: Tensor, texts: Tensor | None, keys: Sequence[int], request: Request) -> Tensor:
        """Return normalised paths (B, S, H) of normalised series (B, L)."""
        length, points = self._length(request), self.module.token_length
        total = -(-request.horizon // length)
        parts: list[Tensor] = []
        before = None
        for first in range(0, total, FUTURE_TOKENS):
            future = min(FUTURE_TOKENS, total - first)
            reading = self.read_series(series, texts, future, length)
            fresh = noise.normal(keys, request.samples, future, points, first=first, device=self.device)
            whole = noise.coherent(fresh, before, coherence=self.mode.coherence)
            before = whole[:, :, -1]
            parts.append(self.paths(reading, whole, length, steps=request.steps))
            if first + future < total:
                series = torch.cat([series, parts[-1].median(1).values.to(series.dtype)], 1)
                series = series[:, -(request.context_tokens or CONTEXT_TOKENS) * length :]
        return torch.cat(parts, 2)[..., : request.horizon]

    # -- on tensors ----------------------------------------------------------------------------------------------------

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
