"""What Aurora small is chosen by: series that were held out, beside naive forecasts; events told in unseen phrases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from zoo_forecast.corpus import SHORT, Track
from zoo_forecast.events import Of
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.series import Values
from zoo_forecast.small import AuroraSmall
from zoo_forecast.synth import TESTED_CONTEXT, with_event

HORIZONS = {1: 6, 4: 8, 5: 10, 7: 14, 12: 18, 24: 48, 48: 48, 52: 13, 96: 96, 288: 144}
A_GROUP = 48  # windows
LEVELS = tuple(round(0.1 * n, 1) for n in range(1, 10))
LONGEST_CONTEXT = 2048
SAMPLES = 40


@dataclass(frozen=True, eq=False)
class Question:
    """One window.

    Args:
        group: of those that are averaged.
        past: what is known.
        coming: what is asked for.
        period: of the series.
        text: beside it.
    """

    group: str
    past: Values
    coming: Values
    period: int
    text: str | None = None


def held_out(tracks: Sequence[Track]) -> list[Question]:
    """Return windows whose future lies in what is held out, at most 48 a group, spread over its series."""
    groups: dict[str, list[Question]] = {}
    for track in tracks:
        length, held = len(track.values), track.held
        if held == length:
            continue
        horizon = min(HORIZONS.get(track.period, 24), length // 3)
        origin = max(held, length // 2) if length < SHORT else held
        for begin in range(origin, length - horizon + 1, max(horizon, (length - origin) // 4)):
            past = track.values[max(0, begin - LONGEST_CONTEXT) : begin]
            coming = track.values[begin : begin + horizon]
            if np.isfinite(past).sum() > 8 and np.isfinite(coming).any() and np.nanstd(past) > 0:
                group = track.group.split("/")[0] if track.period != 1 else f"{track.group}/yearly"
                groups.setdefault(group, []).append(Question(group, past, coming, track.period))
    chosen = []
    for questions in groups.values():
        step = max(1, len(questions) // A_GROUP)
        chosen += questions[::step][:A_GROUP]
    return chosen


def events(count: int, *, seed: int = 0, part: Of = "validation") -> list[Question]:
    """Return series with events that are told in phrases that are kept from learning.

    Args:
        count: how many.
        seed: of all.
        part: "validation" for choosing, "test" for the end.
    """
    asked = []
    for index in range(count):
        values, period, text = with_event(seed, index, part=part)
        asked.append(Question("events", values[:TESTED_CONTEXT], values[TESTED_CONTEXT:], period, text or None))
    return asked


class Exam:
    """Scores a network.

    Args:
        held: questions from `held_out`.
        told: questions from `events`; none where no text is read.
        tower: what reads texts.
    """

    def __init__(self, held: Sequence[Question], told: Sequence[Question] = (), tower: nn.Module | None = None) -> None:
        self.held, self.told, self.tower = held, told, tower

    def __call__(self, module: AuroraSmall) -> dict[str, float]:
        """Return scores; below 1 is better than what they are relative to.

        `crps`: geometric mean over groups of CRPS over the better naive forecast's; `mae` likewise; `crps_GROUP` each;
        `coverage`: of the 80 % interval; `text`: mean CRPS with texts over that without,
        each in standard deviations of its context. (In distances from one point to the next, as the others are, a few
        smooth series, which hardly move from point to point, would outweigh all the rest.)
        """
        forecaster = Forecaster(module)
        engine = forecaster.engine
        engine.tower = self.tower  # type: ignore[attr-defined]
        scores: dict[str, float] = {}
        crps, naive, inside = _score(forecaster, self.held, [_distance(question) for question in self.held], read=False)
        groups = sorted({question.group for question in self.held})
        ratios, absolute = [], []
        for group in groups:
            rows = [n for n, question in enumerate(self.held) if question.group == group]
            best = naive[rows].mean(0)[:2].min()
            ratios.append(crps[rows, 0].mean() / best)
            absolute.append(crps[rows, 1].mean() / best)
            scores[f"crps_{group}"] = float(ratios[-1])
        if groups:
            scores["crps"], scores["mae"] = (math.exp(np.log(values).mean()) for values in (ratios, absolute))
            scores["coverage"] = float(inside.mean())
        if self.told:
            units = [_deviation(question) for question in self.told]
            with_text, without = (_score(forecaster, self.told, units, read=read)[0] for read in (True, False))
            scores["text"] = float(with_text[:, 0].mean() / without[:, 0].mean())
        return scores


def _score(
    forecaster: Forecaster, questions: Sequence[Question], units: Sequence[float], *, read: bool
) -> tuple[Values, Values, Values]:
    """Return CRPS and MAE of the forecasts, MAE of last value and seasonal naive, and coverage, a row a question.

    All but the coverage in the units, one a question.
    """
    order: dict[int, list[int]] = {}
    for row, question in enumerate(questions):
        order.setdefault(len(question.coming), []).append(row)
    own, naive, inside = np.zeros((len(questions), 2)), np.zeros((len(questions), 2)), np.zeros(len(questions))
    for horizon, rows in order.items():
        asked = [questions[row] for row in rows]
        forecast = forecaster.predict(
            [question.past for question in asked],
            horizon,
            num_samples=SAMPLES,
            texts=[question.text for question in asked] if read else None,
            periods=[question.period for question in asked],
            steps=0,
        )
        quantiles = forecast.quantiles(LEVELS).numpy()
        for row, question, curves in zip(rows, asked, quantiles, strict=True):
            unit = units[row]
            seen = np.isfinite(question.coming)
            y = question.coming[seen]
            levels = np.array(LEVELS)[:, None]
            error = y - curves[:, seen]
            own[row] = 2 * np.maximum(levels * error, (levels - 1) * error).mean() / unit, abs(error[4]).mean() / unit
            inside[row] = ((curves[0, seen] <= y) & (y <= curves[-1, seen])).mean()
            filled = question.past[np.isfinite(question.past)]
            lag = min(question.period, len(filled))
            season = np.resize(filled[-lag:], horizon)[seen]
            naive[row] = abs(y - filled[-1]).mean() / unit, abs(y - season).mean() / unit
    return own, naive, inside


def _deviation(question: Question) -> float:
    return float(np.nanstd(question.past)) or 1.0


def _distance(question: Question) -> float:
    """Return the mean distance of the past from itself one period (or point) before."""
    past = question.past
    lag = question.period if len(past) > 2 * question.period else 1
    apart = np.nanmean(np.abs(past[lag:] - past[:-lag])) if len(past) > lag else np.nan
    return float(apart) if apart > 0 else float(np.nanstd(past))
