"""Run Aurora small on series: their scale, windows of one shape, quantiles, and paths in the order of the flow."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from zoo_core.nn.graphs import Graphs
from zoo_forecast import folded, minilm, noise
from zoo_forecast.asked import Asked, Request
from zoo_forecast.corpus import LONGEST_PERIOD
from zoo_forecast.light_tower import minilm_or_light
from zoo_forecast.series import Values
from zoo_forecast.small import LEVELS, AuroraSmall, Outlook
from zoo_forecast.small_inputs import (
    CONTEXT_TOKENS,
    FUTURE_TOKENS,
    LONGEST,
    RIDGE,
    Inputs,
    Past,
    inner_points,
    read,
    token_length,
)
from zoo_forecast.words import Pieces, pieces

BUCKET = 8  # context tokens come in multiples of so many
COHERENCE = 0.5  # of the noise of neighbouring tokens; not fitted
CLIP = 30.0  # of normalised values that are read


class Shape(NamedTuple):
    """What a series needs.

    Args:
        tokens: n, of context.
        future: F.
        told: whether a text is read.
    """

    tokens: int
    future: int
    told: bool


class SmallEngine:
    """Aurora small, ready to run; a `zoo_forecast.asked.Runs`.

    Args:
        module: the network, in evaluation mode.
        tower: what reads texts; by default MiniLM or, where it is not, the light tower, opened when a text comes.
    """

    reads = frozenset({"covariates"})
    picture = 0
    shortest_texts = 0

    def __init__(self, module: AuroraSmall, tower: nn.Module | None = None) -> None:
        self.module, self.tower = module, tower
        self.follow: Callable[..., Tensor] = Graphs(partial(folded.sample, module.flow))
        self.device = module.facts.weight.device

    # -- what a Forecaster asks ----------------------------------------------------------------------------------------

    def cut(self, text: str | None) -> Pieces | None:
        """See `Runs.cut`."""
        return pieces(text, limit=minilm.PIECES)

    @torch.inference_mode()
    def read_texts(self, pieces: Tensor, lengths: Tensor) -> Tensor:
        """See `Runs.read_texts`: (B, 48, 384)."""
        if self.tower is None:
            self.tower = minilm_or_light(layers=self.module.text_layers, device=self.device)
        return minilm.rows_of(self.tower(pieces, lengths), lengths).half()

    def group(self, one: Asked, request: Request) -> Hashable:
        """See `Runs.group`: context and future of as many tokens, and all with a text or none."""
        length = self._length(one, request)
        most = min(request.context_tokens or CONTEXT_TOKENS, CONTEXT_TOKENS)
        tokens = min(-(-len(one.series.values) // length), most)
        future = min(-(-request.horizon // length), FUTURE_TOKENS)
        return Shape(-(-tokens // BUCKET) * BUCKET, future, one.text is not None)

    def draw(self, group: Sequence[Asked], request: Request) -> Tensor:
        """See `Runs.draw`. With `steps=0` no flow runs, and path s is the quantile (s + 1/2) / S."""
        shape = self.group(group[0], request)
        assert isinstance(shape, Shape)  # noqa: S101 - for the type checker
        lengths = [self._length(one, request) for one in group]
        histories = [_history(one) for one in group]
        drawn: list[list[Tensor]] = [[] for _ in group]
        before: Tensor | None = None
        rolled = 0
        # a horizon beyond 16 tokens goes on from the median path
        while any(sum(part.shape[-1] for part in parts) < request.horizon for parts in drawn):
            scaled = [
                _scale(history, shape.tokens * length) for history, length in zip(histories, lengths, strict=True)
            ]
            outlook = self.outlook(group, [s.values for s in scaled], [s.level for s in scaled], lengths, shape)
            ranks, before = self._ranks(outlook, group, request, rolled, before)
            rolled += shape.future
            for row, (scale, length) in enumerate(zip(scaled, lengths, strict=True)):
                at = torch.tensor(inner_points(length, self.module.token_length), device=self.device)
                curve = outlook.quantiles[row][:, at].flatten(0, 1)  # (F q, levels)
                order = None if ranks is None else ranks[row][..., at].flatten(1)  # (S, F q)
                normal = _along(curve.double().cpu(), order, request.samples)
                drawn[row].append(normal * scale.std + scale.mean)
                if sum(part.shape[-1] for part in drawn[row]) < request.horizon:
                    histories[row] = np.concatenate([histories[row], drawn[row][-1].median(0).values.numpy()])
        return torch.stack([torch.cat(parts, 1)[:, : request.horizon] for parts in drawn])

    def embed(self, group: Sequence[Asked], request: Request) -> Tensor:
        """See `Embeds.embed`: what the first future token has become, which looks at series, picture and text."""
        shape = self.group(group[0], request)
        assert isinstance(shape, Shape)  # noqa: S101 - for the type checker
        lengths = [self._length(one, request) for one in group]
        scaled = [
            _scale(_history(one), shape.tokens * length).values for one, length in zip(group, lengths, strict=True)
        ]
        # of a constant series nothing but rounding is left over
        values = [np.zeros_like(v) if one.series.constant else v for one, v in zip(group, scaled, strict=True)]
        # a vector is to be that of the shape, so that all series are read as if they lay around zero
        outlook = self.outlook(group, values, [0.0] * len(group), lengths, shape)
        return outlook.conditions[:, 0].float().cpu()

    # -- on tensors ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def outlook(
        self, group: Sequence[Asked], values: Sequence[Values], levels: Sequence[float], lengths: Sequence[int],
        shape: Shape,
    ) -> Outlook:  # fmt: skip
        """Run the network.

        Args:
            group: B series.
            values: of each, normalised, NaN where nothing is there.
            levels: mean over deviation of each.
            lengths: q of each.
            shape: of all.
        """
        inputs = self.inputs(group, values, levels, lengths, shape)
        result: Outlook = self.module(inputs)
        return result

    def inputs(
        self, group: Sequence[Asked], values: Sequence[Values], levels: Sequence[float], lengths: Sequence[int],
        shape: Shape,
    ) -> Inputs:  # fmt: skip
        """Return what the network reads; arguments as of `outlook`."""
        width = shape.tokens * LONGEST
        laid = np.full((len(group), width), np.nan)
        for row, own in zip(laid, values, strict=True):
            row[width - len(own) :] = own
        seen = torch.from_numpy(~np.isnan(laid))
        periods = [min(one.season, LONGEST_PERIOD) for one in group]
        past = Past(
            torch.from_numpy(np.nan_to_num(laid.clip(-CLIP, CLIP))).float().to(self.device),
            seen.to(self.device),
            torch.tensor(periods, device=self.device),
            torch.tensor(lengths, device=self.device),
            torch.tensor(levels, dtype=torch.float32, device=self.device),
        )
        if any(one.covariates is not None for one in group):
            past = self._covered(past, group, values, periods, shape)
        made = read(past, tokens=shape.tokens, future=shape.future, points=self.module.token_length)
        if not shape.told:
            return made
        return made._replace(text=torch.stack([one.text for one in group if one.text is not None]).to(self.device))

    def _covered(
        self, past: Past, group: Sequence[Asked], values: Sequence[Values], periods: Sequence[int], shape: Shape
    ) -> Past:
        width, ahead = shape.tokens * LONGEST, shape.future * LONGEST
        tracks = np.zeros((3, len(group), width + ahead))
        for row, (one, own, period) in enumerate(zip(group, values, periods, strict=True)):
            if one.covariates is None:
                continue
            begin = width - len(own)
            shown = one.covariates[:, len(one.series.values) - len(own) :][:, : len(own) + ahead]
            end = begin + shown.shape[1]
            tracks[:, row, begin:end] = _explained(own, shown, period)
        level, moved = (torch.from_numpy(track.clip(-CLIP, CLIP)).float().to(self.device) for track in tracks[:2])
        return past._replace(explained=level, moved=moved, covered=torch.from_numpy(tracks[2] > 0).to(self.device))

    def _ranks(
        self, outlook: Outlook, group: Sequence[Asked], request: Request, first: int, before: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the place (B, S, F, p), from 0, that the flow's paths have among each other at each point."""
        steps = self.module.sampling_steps if request.steps is None else request.steps
        if not steps:
            return None, None
        batch, future, points = outlook.start.shape
        fresh = noise.normal(
            [one.key for one in group], request.samples, future, points, first=first, device=self.device
        )
        whole = noise.coherent(fresh, before, coherence=COHERENCE)
        start = whole.transpose(0, 1).reshape(request.samples, batch * future, points)
        clean = self.follow(start, outlook.conditions.reshape(batch * future, -1), steps=steps, sampler="ode")
        ranks = clean.argsort(0).argsort(0)
        return ranks.view(request.samples, batch, future, points).transpose(0, 1), whole[:, :, -1]

    def _length(self, one: Asked, request: Request) -> int:
        if request.token_length is not None:
            return min(request.token_length, LONGEST)
        return token_length(min(one.season, LONGEST_PERIOD), len(one.series.values), request.horizon)


class _Scaled(NamedTuple):
    values: Values
    mean: float
    std: float

    @property
    def level(self) -> float:
        return self.mean / self.std


def _history(one: Asked) -> Values:
    values = one.series.values
    return values if one.series.bridged is None else np.where(one.series.bridged, np.nan, values)


def _scale(history: Values, points: int) -> _Scaled:
    """Normalise the newest points by their mean and deviation, in float64 and safe from overflow."""
    newest = history[-points:]
    if np.isnan(newest).all():  # nothing is there but older values: the last of them
        newest = history[np.flatnonzero(~np.isnan(history))[-1] :]
    largest = float(np.nanmax(np.abs(newest))) or 1.0
    unit = newest / largest
    mean, std = float(np.nanmean(unit)), max(float(np.nanstd(unit)), 1e-12)
    return _Scaled((unit - mean) / std, mean * largest, std * largest)


def _along(curve: Tensor, order: Tensor | None, samples: int) -> Tensor:
    """Return paths (S, N) along quantile curves (N, levels): path s has at each point the place that `order` says."""
    known = torch.tensor(LEVELS, dtype=torch.float64)
    wanted = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    right = torch.searchsorted(known, wanted).clamp(1, len(LEVELS) - 1)
    # beyond the outer levels the last pieces go on
    share = (wanted - known[right - 1]) / (known[right] - known[right - 1])
    values = curve[:, right - 1] + (curve[:, right] - curve[:, right - 1]) * share  # (N, S)
    return values.mT if order is None else values.mT.gather(0, order.cpu())


def _explained(values: Values, covariates: Values, period: int) -> Values:
    """Return what covariates (C, L + h) explain of values (L,): by level, by change from a period before, and where."""
    context = len(values)
    there = np.asarray(~np.isnan(covariates).any(0))
    shown = np.nan_to_num(covariates)
    usable = there[:context] & ~np.isnan(values)
    if usable.sum() < 2 * len(covariates) + 2:
        return np.zeros((3, covariates.shape[1]))
    centre = shown[:, :context][:, usable].mean(1, keepdims=True)
    spread = shown[:, :context][:, usable].std(1, keepdims=True)
    tracks = (shown - centre) / np.where(spread > 0, spread, 1.0)
    filled = np.nan_to_num(values)
    mean = filled[usable].mean()
    level = mean + _ridge(tracks[:, :context][:, usable], filled[usable] - mean) @ tracks
    lagged = np.arange(period, context)
    both = usable[lagged] & usable[lagged - period]
    lagged = lagged[both]
    moved = np.zeros_like(level)
    if len(lagged) >= 2 * len(tracks) + 2:
        moved = (
            _ridge(tracks[:, lagged] - tracks[:, lagged - period], filled[lagged] - filled[lagged - period]) @ tracks
        )
    return np.stack([level, moved, there])


def _ridge(x: Values, y: Values) -> Values:
    square = x @ x.T + RIDGE * x.shape[1] * np.eye(len(x))
    return np.asarray(np.linalg.solve(square, x @ y))
