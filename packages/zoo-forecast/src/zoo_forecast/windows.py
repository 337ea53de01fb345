"""Windows to learn from, drawn and changed on the device: a real or synthetic series, an origin, maybe a text.

Every choice follows from a row of uniform numbers, made on the host from seed and step; so does which points go missing
or wild, up to the device's generator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo_forecast.corpus import LONGEST_PERIOD, Corpus
from zoo_forecast.events import Events
from zoo_forecast.small_inputs import (
    CONTEXT_TOKENS,
    FUTURE_TOKENS,
    LONGEST,
    RIDGE,
    Inputs,
    Past,
    future_steps,
    read,
    token_length,
)

PAST, FUTURE = CONTEXT_TOKENS * LONGEST, FUTURE_TOKENS * LONGEST  # points that are looked at
CHOICES = 40  # uniform numbers a window
OTHER_LENGTHS = (8, 12, 16, 24, 32, 48)
CLIP = 30.0  # of normalised values


class Window(NamedTuple):
    """What is learnt from.

    Args:
        inputs: of the network.
        target: (B, F, p), normalised.
        asked: (B, F, p) float: whether a point is there and within the horizon.
    """

    inputs: Inputs
    target: Tensor
    asked: Tensor


class Shares(NamedTuple):
    """How often windows are changed, each from 0 to 1."""

    synthetic: float = 0.5
    mixed: float = 0.2
    flipped: float = 0.3
    gaps: float = 0.15
    wild: float = 0.1
    censored: float = 0.05
    covariates: float = 0.15
    events: float = 0.25
    text_dropped: float = 0.3
    foreign_texts: float = 0.2
    texts_cut: float = 0.0
    other_length: float = 0.25


class Windows:
    """Makes windows.

    Args:
        real: series of packs.
        synthetic: made series; may be the real ones again.
        events: that texts tell; None: none happen.
        texts: (texts, T, 384) states, those of the events first; None: nothing is read.
        shares: how often windows are changed.
        points: p.
        cuts: (texts, versions) numbers of what each text may be cut to, its own where it may not; None: all stay whole.
    """

    def __init__(
        self,
        real: Corpus,
        synthetic: Corpus,
        events: Events | None,
        texts: Tensor | None,
        shares: Shares,
        points: int,
        cuts: Tensor | None = None,
    ) -> None:
        self.real, self.synthetic, self.events, self.texts = real, synthetic, events, texts
        self.shares, self.points, self.cuts = shares, points, cuts
        device = real.values.device
        base = [token_length(max(1, period), 1, 1) for period in range(LONGEST_PERIOD + 1)]
        self.base = torch.tensor(base, device=device)
        self.spoken = _evenly(real).to(device) if texts is not None else real.texts[:0].long()
        self.other = torch.tensor(OTHER_LENGTHS, device=device)

    def __call__(self, chances: Tensor) -> Window:
        """Make windows from uniform numbers (B, 40) on the device."""
        u = Chances(chances)
        values, seen, period, level, told = self._series(u)
        horizon_tokens = (FUTURE_TOKENS ** u.next()).floor().clamp(1, FUTURE_TOKENS).long()
        length, tokens = self._lengths(u, period, seen, horizon_tokens)
        time = torch.arange(-PAST, FUTURE, device=values.device)
        # the context begins where its tokens do
        seen = seen & (time >= -(tokens * length)[:, None])
        values, seen = self._spoilt(u, values, seen)
        values, level = normalised(values, seen, level)
        covered = u.next() < self.shares.covariates
        values, tracks = self._covariates(u, values, covered)
        text = None
        if self.events is not None:
            happens = u.next() < self.shares.events
            values, said = self.events.happen(values, time, level, period, happens, u.next())
            told = torch.where(happens, said, told)
        if len(self.spoken):
            # a text about something else says nothing, neither of the future nor of what kind of series it is
            foreign = (told < 0) & (u.next() < self.shares.foreign_texts)
            chosen = (u.next() * len(self.spoken)).long().clamp(max=len(self.spoken) - 1)
            told = torch.where(foreign, self.spoken[chosen], told)
            told = self._cut(u, told)
        values, level = normalised(values, seen, level)
        if self.texts is not None:
            text = self.texts[told.clamp(min=0)] * (told >= 0)[:, None, None]
        context = slice(None, PAST)
        past = Past(values[:, context] * seen[:, context], seen[:, context], period, length, level)
        if tracks is not None:
            past = explained(past, tracks, covered)
        inputs = read(past, tokens=CONTEXT_TOKENS, future=FUTURE_TOKENS, points=self.points)
        step = future_steps(length, FUTURE_TOKENS, self.points)
        place = (PAST + step).flatten(1)
        target = values.gather(1, place).view_as(step)
        asked = seen.gather(1, place).view_as(step)
        asked = asked & (torch.arange(FUTURE_TOKENS, device=step.device)[:, None] < horizon_tokens[:, None, None])
        # made anew, not by _replace, which the compiler of PyTorch 2.11 cannot follow
        return Window(Inputs(*inputs[:-1], text=text), target, asked.to(target.dtype))

    def _cut(self, u: Chances, told: Tensor) -> Tensor:
        """Return numbers of texts (B,), some of which have become those of a few of their sentences."""
        if self.cuts is None:
            return told
        cut = (told >= 0) & (u.next() < self.shares.texts_cut)
        version = (u.next() * self.cuts.shape[1]).long().clamp(max=self.cuts.shape[1] - 1)
        return torch.where(cut, self.cuts[told.clamp(min=0), version], told)

    def _series(self, u: Chances) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return values, whether they are there, periods, levels, and numbers of texts."""
        real = u.next() >= self.shares.synthetic
        chance, where, second = u.next(), u.next(), u.next()
        drawn = []
        for corpus in (self.real, self.synthetic):
            series = corpus.pick(chance)
            drawn.append((corpus, series, _origin(corpus, series, where)))
        parts = [corpus.around(series, origin, PAST, FUTURE) for corpus, series, origin in drawn]
        # nothing behind the part that may be learnt is shown, nor asked for
        learnt = [_within(corpus, series, origin) for corpus, series, origin in drawn]
        row = real[:, None]
        values = torch.where(row, parts[0][0], parts[1][0])
        seen = torch.where(row, parts[0][1] & learnt[0], parts[1][1] & learnt[1])
        period = torch.where(real, self.real.period[drawn[0][1]], self.synthetic.period[drawn[1][1]])
        level = torch.where(real, self.real.level[drawn[0][1]], self.synthetic.level[drawn[1][1]])
        told = self.real.told(drawn[0][1], drawn[0][2])
        told = torch.where(real & (u.next() >= self.shares.text_dropped), told, -1)
        # TSMixup: a second real series on the first, where there is one
        other = self.real.pick(second)
        at = _origin(self.real, other, u.next())
        more, there = self.real.around(other, at, PAST, FUTURE)
        share = 0.6 * u.next() * (u.next() < self.shares.mixed)
        values = values + share[:, None] * more
        seen = seen & ((there & _within(self.real, other, at)) | (share == 0)[:, None])
        sign = torch.where(u.next() < self.shares.flipped, -1.0, 1.0)
        told = torch.where((sign < 0) | (share > 0), -1, told)
        return values * sign[:, None], seen, period, level * sign, told

    def _lengths(self, u: Chances, period: Tensor, seen: Tensor, horizon: Tensor) -> tuple[Tensor, Tensor]:
        """Return points of a token and how many tokens of context there are, (B,) each."""
        first = torch.arange(PAST, 0, -1, device=seen.device)
        context = (first * seen[:, :PAST]).amax(1)
        length = self.base[period.clamp(max=LONGEST_PERIOD)]
        for _ in range(2):
            longer = (2 * length <= LONGEST) & (context > CONTEXT_TOKENS * length)
            length = torch.where(longer, 2 * length, length)
        chosen = self.other[(u.next() * len(OTHER_LENGTHS)).long()]
        length = torch.where(u.next() < self.shares.other_length, chosen, length)
        # half of the windows show all that there is
        fewer = (CONTEXT_TOKENS ** u.next()).ceil().long().clamp(min=2)
        return length, torch.where(u.next() < 0.5, fewer, CONTEXT_TOKENS)

    def _spoilt(self, u: Chances, values: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Leave points out, singly or in a block, censor from above, and make some of the context wild."""
        width, device = values.shape[1], values.device
        rate = 0.3 * u.next() * (u.next() < self.shares.gaps)
        seen = seen & (torch.rand(values.shape, device=device) >= rate[:, None])
        place = torch.arange(width, device=device)
        begin, size = PAST * (1 - 0.2 * u.next()), 200 * u.next() ** 2 * (u.next() < self.shares.gaps)
        block = (place >= begin[:, None]) & (place < (begin + size)[:, None]) & (place < PAST - 1)
        seen = seen & ~block
        roof = 0.5 + u.next()
        values = torch.where((u.next() < self.shares.censored)[:, None], torch.minimum(values, roof[:, None]), values)
        rate = 0.02 * (u.next() < self.shares.wild)
        wild = (torch.rand(values.shape, device=device) < rate[:, None]) & (place < PAST)
        return torch.where(wild, values + 6 * torch.randn_like(values), values), seen

    def _covariates(self, u: Chances, values: Tensor, covered: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add what two other series cause; return the sum and those series (B, 2, PAST + FUTURE)."""
        if not self.shares.covariates:
            return values, None
        tracks = []
        for _ in range(2):
            series = self.real.pick(u.next())
            track, _seen = self.real.around(series, _origin(self.real, series, u.next()), PAST, FUTURE)
            tracks.append(track.clamp(-4, 4))
        kind = u.next()
        strength = (1.5 * (u.next() - 0.2).clamp(min=0)) * covered
        bent = torch.where((kind < 0.3)[:, None], tracks[0].relu(), tracks[0])
        caused = strength[:, None] * (bent + torch.where(kind > 0.6, 1.0, 0.0)[:, None] * tracks[1])
        return values + caused, torch.stack(tracks, 1)


class Chances:
    """Uniform numbers (B, N), taken one column after the other."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.column = numbers, 0

    def next(self) -> Tensor:
        """Return the next column (B,)."""
        self.column += 1
        return self.numbers[:, self.column - 1]


def normalised(values: Tensor, there: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (B, PAST + FUTURE) with mean 0 and deviation 1 in the context, and their levels (B,).

    Args:
        values: a series, normalised by its own mean and deviation, or by an earlier call.
        there: where they count.
        level: mean over deviation before.
    """
    context, mask = values[:, :PAST], there[:, :PAST]
    number = mask.sum(1).clamp(min=1)
    mean = (context * mask).sum(1) / number
    std = (((context - mean[:, None]) * mask).square().sum(1) / number).sqrt()
    std = torch.where(std > 1e-4, std, 1.0)
    return ((values - mean[:, None]) / std[:, None]).clamp(-CLIP, CLIP), (level + mean) / std


def explained(past: Past, tracks: Tensor, covered: Tensor) -> Past:
    """Put beside series what two covariates (B, 2, L + H) explain, by least squares over each context alone."""
    context = past.values.shape[1]
    level = _fitted(past.values, tracks, past.seen)
    time = torch.arange(-context, 0, device=covered.device).expand(len(covered), -1) - past.period[:, None]
    before, seen = past.at(time)
    lagged = torch.stack([_lagged(track, past.period) for track in tracks.unbind(1)], 1)
    moved = _fitted(past.values - before, tracks - lagged, past.seen & seen, target=tracks)
    everywhere = covered[:, None].expand(-1, tracks.shape[2])
    return Past(past.values, past.seen, past.period, past.length, past.level, level, moved, everywhere)


def _fitted(y: Tensor, x: Tensor, seen: Tensor, target: Tensor | None = None) -> Tensor:
    """Fit y (B, L) to the first L points of x (B, 2, L + H) with ridge; return what `target`, or x, gives with that."""
    context, weight = y.shape[1], seen.to(y.dtype)
    number = weight.sum(1).clamp(min=1)[:, None]
    mean_y = (y * weight).sum(1, keepdim=True) / number
    mean_x = (x[..., :context] * weight[:, None]).sum(2) / number
    dy = (y - mean_y) * weight
    dx = (x[..., :context] - mean_x[..., None]) * weight[:, None]
    (a, b), (_, d) = ((dx[:, i, None] * dx).sum(2).unbind(1) for i in range(2))
    ridge = RIDGE * number[:, 0]
    a, d = a + ridge, d + ridge
    r, s = (dx * dy[:, None]).sum(2).unbind(1)
    determinant = a * d - b * b
    slope = torch.stack([(d * r - b * s) / determinant, (a * s - b * r) / determinant], 1)
    shown = x - mean_x[..., None] if target is None else target
    return (slope[..., None] * shown).sum(1) + (mean_y if target is None else 0)


def _lagged(track: Tensor, period: Tensor) -> Tensor:
    place = torch.arange(track.shape[1], device=track.device) - period[:, None]
    return track.gather(1, place.clamp(min=0))


def _origin(corpus: Corpus, series: Tensor, where: Tensor) -> Tensor:
    """Return an origin: at least 8 points (a third of a short series) before it, and some behind it."""
    learnt = corpus.learnt[series]
    first = (learnt // 3).clamp(max=64)
    return first + (where * (learnt - first - 1).clamp(min=1)).long()


def _within(corpus: Corpus, series: Tensor, origin: Tensor) -> Tensor:
    place = origin[:, None] + torch.arange(-PAST, FUTURE, device=origin.device)
    return place < corpus.learnt[series][:, None]


def _evenly(corpus: Corpus) -> Tensor:
    """Return numbers of texts, as many of each group of series: those of small groups stand there several times."""
    groups: dict[str, set[int]] = {}
    for track in corpus.tracks:
        if track.texts is not None:
            groups.setdefault(track.group, set()).update(track.texts[track.texts >= 0].tolist())
    most = max(map(len, groups.values()), default=0)
    parts = [np.resize(sorted(found), most) for found in groups.values() if found]
    return torch.from_numpy(np.concatenate([*parts, np.zeros(0)]).astype(np.int64))
