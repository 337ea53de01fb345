"""From series of any length and step to the tensors that Aurora small reads, all of one shape: for training and use.

A token is q points of the series, q at most p, stretched to p points by repeating neighbours, so that what the network
learns of one q serves the others. Everything is found by its distance from the origin, the first point to forecast;
what is not there is masked, never made up. Nothing here looks at more than one row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EXPERTS = 9  # naive forecasts: see `experts`
FACTS = 6  # numbers about the whole series: see `read`
CHANNELS = 4  # of context tokens: value, its asinh, what covariates explain, whether it is there
FOLD = (16, 32)  # rows (periods) and columns (phases) of the picture
SHORTEST, LONGEST = 8, 48  # tokens, in points
CONTEXT_TOKENS, FUTURE_TOKENS = 64, 16  # at most; the longest context is 64 tokens of 48 points
RIDGE = 0.01  # share of the covariates' variance that is added to it


class Inputs(NamedTuple):
    """What the network reads. Values are normalised.

    Args:
        tokens: (B, n, 4, p) context, oldest token first: value, asinh of it, what covariates explain, whether it is
            there; 0 where it is not.
        there: (B, n) whether anything of a token is there.
        fold: (B, 2, rows, columns) the newest periods below each other: value, whether it is there.
        future: (B, F, 2 E, p) naive forecasts, then whether each is there.
        unit: (B,) how far the series is from repeating itself, at least 0.02.
        facts: (B, 6).
        text: (B, T, 384) states of a text, rows of zeros behind it; None if there are no texts at all.
    """

    tokens: Tensor
    there: Tensor
    fold: Tensor
    future: Tensor
    unit: Tensor
    facts: Tensor
    text: Tensor | None = None


class Past(NamedTuple):
    """Normalised series that end at the origin.

    Args:
        values: (B, L), 0 where nothing is there.
        seen: (B, L) bool.
        period: (B,) int64, m, points after which each usually repeats.
        length: (B,) int64, q, points of a token.
        level: (B,) the mean over the standard deviation that normalised them.
        explained: (B, L + H) what covariates explain by their level, or None.
        moved: (B, L + H) what they explain by how far they are from one period before, or None.
        covered: (B, L + H) bool, where covariates are there.
    """

    values: Tensor
    seen: Tensor
    period: Tensor
    length: Tensor
    level: Tensor
    explained: Tensor | None = None
    moved: Tensor | None = None
    covered: Tensor | None = None

    def at(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and whether they are there at times (B, ...) in points from the origin, -1 the newest."""
        place = time + self.values.shape[1]
        inside = (place >= 0) & (time < 0)
        flat = place.clamp(0, self.values.shape[1] - 1).flatten(1)
        seen = self.seen.gather(1, flat).view_as(place) & inside
        return self.values.gather(1, flat).view_as(place) * seen, seen


def token_length(period: int, context: int, horizon: int) -> int:
    """Return q: the period or a multiple or part of it, from 8 to 48, so long that context and horizon fit.

    Args:
        period: m.
        context: points that are there.
        horizon: points to forecast.
    """
    parts, times = -(-period // LONGEST), -(-SHORTEST // period)
    length = period * times if parts == 1 else round(period / parts)
    while 2 * length <= LONGEST and (context > CONTEXT_TOKENS * length or horizon > FUTURE_TOKENS * length):
        length *= 2
    return length


def steps_within(length: Tensor, points: int) -> Tensor:
    """Return which point of its token each of p inner points is: lengths (B,) -> (B, p)."""
    inner = torch.arange(points, device=length.device)
    return ((2 * inner + 1) * length[:, None]) // (2 * points)


def inner_points(length: int, points: int) -> list[int]:
    """Return the inner point that stands for each of q points of a token."""
    return [((2 * step + 1) * points) // (2 * length) for step in range(length)]


def future_steps(length: Tensor, future: int, points: int) -> Tensor:
    """Return which point of the horizon each inner point of the future tokens is: (B, F, p), from 0."""
    begin = torch.arange(future, device=length.device)[:, None] * length[:, None, None]
    return begin + steps_within(length, points)[:, None]


def read(past: Past, *, tokens: int, future: int, points: int) -> Inputs:
    """Make the inputs of series.

    Args:
        past: normalised series.
        tokens: n, context tokens; older points are left out.
        future: F.
        points: p.
    """
    count = torch.arange(-tokens, 0, device=past.length.device)
    begin = count[:, None] * past.length[:, None, None]
    time = begin + steps_within(past.length, points)[:, None]  # (B, n, p)
    values, seen = past.at(time)
    explained = torch.zeros_like(values)
    if past.explained is not None and past.covered is not None:
        explained = _anywhere(past, past.explained, time) * _anywhere(past, past.covered.to(values.dtype), time)
    channels = torch.stack([values, values.asinh(), explained, seen.to(values.dtype)], 2)
    naive, known = experts(past, future_steps(past.length, future, points))
    unit = restlessness(past)
    observed = past.seen.sum(1).clamp(min=1)
    facts = torch.stack(
        [
            past.level.clamp(-1e4, 1e4).asinh(),
            past.length.log() / 4,
            past.period.log() / 4,
            observed.log() / 8,
            unit.log(),
            (past.period / past.length).clamp(max=8) / 8,
        ],
        1,
    )
    return Inputs(
        channels, seen.any(2), _fold(past), torch.cat([naive, known.to(naive.dtype)], 2), unit, facts.to(values.dtype)
    )


def experts(past: Past, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return naive forecasts and whether they are there, both (B, F, E, p), of points of the horizon (B, F, p).

    In order: the last value; one period before; the mean of four periods at this phase; seven periods before; the mean
    of the last period; the mean; one period before, drifting on; what covariates explain by their level; one period
    before, moved by the covariates.
    """
    period = past.period[:, None, None]
    newest, any_seen = _newest(past)
    last = newest[:, None, None].expand(step.shape[0], *step.shape[1:])
    lag = period * (step // period + 1)
    once, once_seen = past.at(step - lag)
    rounds = [past.at(step - lag - period * back) for back in range(4)]
    number = torch.stack([seen for _, seen in rounds]).sum(0)
    phase = torch.stack([value for value, _ in rounds]).sum(0) / number.clamp(min=1)
    seven = 7 * period
    week, week_seen = past.at(step - seven * (step // seven + 1))
    span = past.period.clamp(min=6)
    level, level_seen = _mean(past, span, 0)
    before, before_seen = _mean(past, span, 1)
    slope = torch.where(before_seen & level_seen, (level - before) / span, 0.0)[:, None, None]
    drift = once + slope * lag
    here = any_seen[:, None, None].expand_as(once_seen)
    same = torch.zeros_like(last)
    covered = torch.zeros_like(once_seen)
    explained, moved, moved_seen = same, same, covered
    if past.explained is not None and past.moved is not None and past.covered is not None:
        covered = _anywhere(past, past.covered.to(last.dtype), step) > 0
        explained = _anywhere(past, past.explained, step) * covered
        # both are of one period: what the covariates moved since then
        moved = once + _anywhere(past, past.moved, step) - _anywhere(past, past.moved, step - lag)
        moved_seen = covered & once_seen
    values = [last, once, phase, week, level[:, None, None].expand_as(last), same, drift, explained, moved]
    known = [
        here, once_seen, number > 0, week_seen, level_seen[:, None, None].expand_as(here), torch.ones_like(here),
        once_seen, covered, moved_seen,
    ]  # fmt: skip
    masks = torch.stack(known, 2)
    return torch.stack(values, 2) * masks, masks


def restlessness(past: Past) -> Tensor:
    """Return the mean distance between values one period apart (one point, where there is no whole period), (B,)."""
    length = past.values.shape[1]
    time = torch.arange(-length, 0, device=past.values.device).expand(len(past.values), -1)

    def apart(lag: Tensor) -> tuple[Tensor, Tensor]:
        before, seen = past.at(time - lag[:, None])
        both = seen & past.seen
        return ((past.values - before).abs() * both).sum(1), both.sum(1)

    total, number = apart(past.period)
    short, pairs = apart(torch.ones_like(past.period))
    enough = number >= 4
    found = torch.where(enough, total, short) / torch.where(enough, number, pairs).clamp(min=1)
    return torch.where((number + pairs) > 0, found, 1.0).clamp(0.02, 4.0)


def _fold(past: Past) -> Tensor:
    rows, columns = FOLD
    period = torch.where(past.period >= 4, past.period, past.length)[:, None, None]
    row = torch.arange(-rows, 0, device=period.device)[:, None]
    column = torch.arange(columns, device=period.device)
    time = row * period + ((2 * column + 1) * period) // (2 * columns)
    values, seen = past.at(time)
    return torch.stack([values, seen.to(values.dtype)], 1)


def _newest(past: Past) -> tuple[Tensor, Tensor]:
    place = torch.arange(1, past.seen.shape[1] + 1, device=past.seen.device)
    last = (place * past.seen).amax(1)
    return past.values.gather(1, (last - 1).clamp(min=0)[:, None])[:, 0], last > 0


def _mean(past: Past, span: Tensor, back: int) -> tuple[Tensor, Tensor]:
    """Return the mean of `span` points (B,), `back` spans before the newest, and whether it is there."""
    age = torch.arange(past.seen.shape[1] - 1, -1, -1, device=past.seen.device)
    inside = (age >= back * span[:, None]) & (age < (back + 1) * span[:, None]) & past.seen
    number = inside.sum(1)
    return (past.values * inside).sum(1) / number.clamp(min=1), number > 0


def _anywhere(past: Past, track: Tensor, time: Tensor) -> Tensor:
    """Return a track (B, L + H) at times (B, ...) from the origin, of the past or the future; 0 outside."""
    place = time + past.values.shape[1]
    inside = (place >= 0) & (place < track.shape[1])
    return track.gather(1, place.clamp(0, track.shape[1] - 1).flatten(1)).view_as(place) * inside
