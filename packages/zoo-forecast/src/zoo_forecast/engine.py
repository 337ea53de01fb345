"""Run Aurora on a batch of normalised series of one length: pictures, guidance, conditions, sample paths.

On a GPU nothing waits for the device until the paths are there, and the three parts of the network (texts, series,
flow) are a CUDA graph each: there are thousands of kernels, most of which are shorter than their launch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from zoo_core.nn.graphs import Graphs
from zoo_forecast import folded, noise
from zoo_forecast.asked import Asked, Request
from zoo_forecast.aurora import Aurora, Guidance, Reading
from zoo_forecast.distil import OFFICIAL_ROWS
from zoo_forecast.mode import Mode
from zoo_forecast.picture import draw, periods
from zoo_forecast.series import scaled
from zoo_forecast.transfer import to_device
from zoo_forecast.words import Pieces, pieces

FUTURE_TOKENS = 64  # at a time; a longer horizon goes on from the median path
CONTEXT_TOKENS = 22  # the longest context of the authors' runs, 1056 points of 48


class Engine:
    """Aurora, ready to run. All tensors are on the module's device and of its type, unless said otherwise.

    Args:
        module: the network, in evaluation mode.
        mode: how it is run.
        shapes: how many CUDA graphs are kept of each part; 0 launches all kernels one by one.
    """

    def __init__(self, module: Aurora, mode: Mode, *, shapes: int = 8) -> None:
        self.module, self.mode = module, mode
        self.encode: Callable[..., Tensor] = Graphs(module.model.TextEncoder, shapes=shapes)
        self.look: Callable[..., Reading] = Graphs(self._looked, shapes=shapes)
        weight = module.model.fuse.weight
        self.device, self.dtype = weight.device, weight.dtype
        # the kernel is for half precision: 2.4 times as fast as the graph there (docs/benchmarks.md)
        fused = self.device.type == "cuda" and self.dtype != torch.float32
        sample = folded.fused if fused else folded.sample
        self.follow: Callable[..., Tensor] = Graphs(partial(sample, module.flow), shapes=shapes)
        self.shortest_texts = OFFICIAL_ROWS if mode.attend_padding else 0
        self.reads, self.picture = frozenset({"images"}), module.model.VisionEncoder.model.picture

    # -- what a Forecaster asks ----------------------------------------------------------------------------------------

    def cut(self, text: str | None) -> Pieces | None:
        """See `Runs.cut`."""
        if self.mode.attend_padding:  # as upstream: the first pieces are kept
            return pieces(text, limit=OFFICIAL_ROWS, newest=False)
        return pieces(text, limit=self.module.model.TextEncoder.model.positions)

    def group(self, one: Asked, request: Request) -> Hashable:
        """See `Runs.group`: of as many points, and all with a text or an image or none; nothing is padded."""
        length, points = self._length(request), len(one.series.values)
        points = min(points, (request.context_tokens or CONTEXT_TOKENS) * length)
        if points > length and not self.mode.keep_remainder:
            points -= points % length  # without the oldest points, which fill no token
        return points, one.text is not None, one.image is not None

    def draw(self, group: Sequence[Asked], request: Request) -> Tensor:
        """See `Runs.draw`."""
        normal, texts, images, mean, std = self._read(group, request)
        paths = self._paths(normal, texts, images, [one.key for one in group], request)
        return paths.double() * std[:, None, None] + mean[:, None, None]

    def embed(self, group: Sequence[Asked], request: Request) -> Tensor:
        """See `Embeds.embed`: the mean over the tokens that are fused of series, picture and text."""
        normal, texts, images, _, _ = self._read(group, request)
        return self.read_series(normal, texts, 1, self._length(request), images).fused.mean(1).float().cpu()

    def _read(
        self, group: Sequence[Asked], request: Request
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
        """Return normalised series (B, L), texts and images or None, mean and deviation (B,) in float64."""
        points: int = self.group(group[0], request)[0]  # type: ignore[index]
        newest = np.stack([one.series.values[-points:] for one in group])
        normal, mean, std = (torch.from_numpy(part) for part in scaled(newest, double=self.mode.double))
        told = [one.text for one in group if one.text is not None]
        shown = [one.image for one in group if one.image is not None]
        return (
            to_device(normal.to(self.dtype), self.device),
            torch.stack(told) if told else None,
            to_device(torch.stack(shown).to(self.dtype), self.device) if shown else None,
            to_device(mean, self.device),
            to_device(std, self.device),
        )

    def _length(self, request: Request) -> int:
        return request.token_length or self.module.token_length

    def _paths(
        self, series: Tensor, texts: Tensor | None, images: Tensor | None, keys: Sequence[int], request: Request
    ) -> Tensor:
        """Return normalised paths (B, S, H) of normalised series (B, L)."""
        length, points = self._length(request), self.module.token_length
        total = -(-request.horizon // length)
        parts: list[Tensor] = []
        before = None
        for first in range(0, total, FUTURE_TOKENS):
            future = min(FUTURE_TOKENS, total - first)
            reading = self.read_series(series, texts, future, length, images)
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
        return self.encode(pieces, lengths, attend_padding=self.mode.attend_padding)

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
        # not in the graph: how a length is transformed, the host plans when it comes for the first time
        period = periods(series, shared=self.mode.shared_period)
        return self.look(series, period, pictures, texts, future=future, length=length)

    def _looked(
        self, series: Tensor, period: Tensor, pictures: Tensor | None, texts: Tensor | None, *, future: int, length: int
    ) -> Reading:
        if pictures is None:
            pictures = draw(series, period, self.picture)
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
