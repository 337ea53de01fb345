"""Make series, and events with texts: `python -m zoo_forecast.synth OUT --series N --jobs J --seed S`.

OUT.npz holds series and events to learn from; OUT.parquet is a pack to test with, one series and one text each, told in
phrases that are kept from learning, and for the part "test" from choosing a model too. The series of a number is always
the same one, whoever makes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_core.errors import InputError, UsageError
from zoo_core.io.atomic import whole
from zoo_forecast.corpus import Track
from zoo_forecast.events import HELD_KIND, PARTS, Event, Of, effect, make_event
from zoo_forecast.series import Values

POINTS = 1536
PERIODS = (1, 4, 5, 7, 12, 24, 24, 24, 30, 48, 52, 96, 144, 168, 288)  # nominal: hours are the most frequent
WAVES = 48  # random frequencies of a stationary kernel
TESTED_HORIZON, TESTED_CONTEXT = 24, 512
Random = np.random.Generator


def make_series(seed: int, index: int, points: int = POINTS) -> tuple[Values, int]:
    """Return the series of a number, and its period."""
    random = np.random.default_rng([seed, index])
    period = int(random.choice(PERIODS))
    maker = MAKERS[int(random.choice(len(MAKERS), p=CHANCES))]
    values = maker(random, points, period)
    if random.random() < 0.05:
        places = random.integers(0, points, int(random.integers(1, 8)))
        values[places] += random.standard_t(2, len(places)) * 3 * values.std()
    if random.random() < 0.08:  # whole numbers
        scale = values.std() or 1.0
        values = np.round(values / scale * random.choice([1, 3, 10, 100]))
    moved: Values = values + random.normal(0, 3) * (values.std() or 1.0)
    return moved, period


# -- kinds of series ---------------------------------------------------------------------------------------------------


def gaussian_process(random: Random, points: int, period: int) -> Values:
    """One to five kernels, joined by + and *: a path of each by random frequencies (KernelSynth of Chronos)."""
    time = np.arange(points)
    total = np.zeros(points)
    for _ in range(random.integers(1, 4)):
        term = _path(random, time, period)
        for _ in range(random.integers(0, 2)):
            term = term * _path(random, time, period)
        total += term / (term.std() or 1.0) * np.exp(0.5 * random.standard_normal())
    noise = 0.3 * random.random() ** 2 * total.std()
    return total + random.normal(0, noise, points)


def _path(random: Random, time: NDArray[np.int64], period: int) -> Values:
    kind = random.integers(5)
    if kind == 0:  # a line
        return np.asarray((time / len(time) - random.random()) * random.standard_normal())
    if kind == 1:  # periodic: harmonics with falling weights
        sharpness = np.exp(-np.arange(1, 9) * random.uniform(0.2, 1.5))
        own = max(4.0, float((period, 7 * period, period, random.integers(4, 366))[random.integers(4)]))
        angles = 2 * np.pi * np.outer(np.arange(1, 9), time / own)
        return np.asarray((sharpness * random.standard_normal((2, 8)))[0] @ np.cos(angles)
                          + (sharpness * random.standard_normal(8)) @ np.sin(angles))  # fmt: skip
    # squared exponential, rational quadratic (a mixture of those), and exponential, which is rough
    reach = len(time) * float(random.choice([0.01, 0.03, 0.1, 0.3, 1.0]))
    frequency = random.standard_normal(WAVES) / reach
    if kind == 3:
        frequency *= np.sqrt(random.gamma(1.0, 1.0, WAVES))
    if kind == 4:
        frequency = np.clip(random.standard_cauchy(WAVES) / reach, -3, 3)
    return np.asarray(np.cos(np.outer(time, frequency) + random.uniform(0, 2 * np.pi, WAVES)).mean(1))


def smoothing(random: Random, points: int, period: int) -> Values:
    """Level, slope and season that move by their own shocks (the models behind exponential smoothing)."""
    shocks = random.standard_normal((3, points))
    level = np.cumsum(shocks[0]) * random.uniform(0, 0.3)
    if random.random() < 0.3:
        slope = random.normal(0, 0.02) + np.cumsum(shocks[1]) * 0.002 * random.random()
        level += np.cumsum(slope * 0.998 ** np.arange(points)) if random.random() < 0.5 else np.cumsum(slope)
    season = _season(random, points, period) * random.uniform(0, 3) if period > 1 and random.random() < 0.8 else 0.0
    noise = random.uniform(0.05, 1.0) * shocks[2]
    if random.random() < 0.3:  # multiplicative, as of counts and money that grow
        growth = level / (np.abs(level).max() + 1e-9) * random.uniform(0.2, 2)
        return np.asarray(np.exp(growth) * (1 + 0.3 * (season + 0.3 * noise) / (np.std(season + noise) + 1e-9)))
    return np.asarray(level + season + noise)


def _season(random: Random, points: int, period: int) -> Values:
    """Return a season that changes slowly, smooth or with any shape."""
    rounds = -(-points // period)
    shape = random.standard_normal(period)
    if random.random() < 0.7:
        width = max(1, period // int(random.integers(3, 12)))
        shape = np.convolve(np.tile(shape, 3), np.ones(width) / width, "same")[period : 2 * period]
    drift = np.cumsum(random.standard_normal((rounds, period)), 0) * random.uniform(0, 0.1) ** 2
    whole_season = (shape / (shape.std() or 1.0) + drift).ravel()[:points]
    return np.asarray(whole_season)


def arma(random: Random, points: int, period: int) -> Values:
    """A stationary or integrated process, some with a seasonal root."""
    impulse = np.zeros(points)
    roots = random.uniform(-0.6, 0.98, 2)
    impulse[0] = 1.0
    for place in range(1, min(points, 400)):
        impulse[place] = roots.sum() * impulse[place - 1] - (roots.prod() * impulse[place - 2] if place > 1 else 0)
    values = _filtered(impulse, random.standard_normal(points))
    if period > 1 and random.random() < 0.5:
        seasonal = np.zeros(points)
        seasonal[::period] = random.uniform(0.5, 0.99) ** np.arange(len(seasonal[::period]))
        values = _filtered(seasonal, values)
    return np.cumsum(values) if random.random() < 0.3 else values


def _filtered(response: Values, shocks: Values) -> Values:
    size = 2 * len(shocks)
    return np.asarray(np.fft.irfft(np.fft.rfft(response, size) * np.fft.rfft(shocks, size), size)[: len(shocks)])


def walk(random: Random, points: int, period: int) -> Values:
    """A random walk, whose steps come in calm and wild times, as of prices."""
    calm = np.cumsum(random.standard_normal(points)) * 0.05
    steps = random.standard_t(random.choice([3, 5, 30]), points) * np.exp(0.5 * (calm - calm.mean()).clip(-3, 3))
    path = np.cumsum(steps * 0.01 + random.normal(0, 0.0005))
    return np.exp(path.clip(-5, 5)) if random.random() < 0.5 else path


def rhythm(random: Random, points: int, period: int) -> Values:
    """Days with a profile, in weeks with one: load, traffic, visits; noise grows with the level."""
    day = _season(random, points, max(period, 4))
    day = np.maximum(day, random.normal(-0.8, 0.5))  # nights are flat
    week = np.repeat(1 + random.uniform(0, 0.5) * random.standard_normal(7), max(period, 4))
    slow = np.exp(0.2 * random.random() * gaussian_process(random, points, period))
    level = (day - day.min() + random.uniform(0.1, 2)) * np.abs(np.resize(week, points)) * slow
    noise = _filtered(0.7 ** np.arange(points).clip(max=300.0), random.standard_normal(points))
    return np.asarray(level * (1 + random.uniform(0.01, 0.25) * noise))


def intermittent(random: Random, points: int, period: int) -> Values:
    """Mostly nothing, now and then something."""
    rate: float | Values = random.uniform(0.02, 0.6)
    if period > 1 and random.random() < 0.5:
        rate = rate * np.exp(0.7 * _season(random, points, period)).clip(0.1, 5)
    happens = random.random(points) < np.clip(rate, 0, 1)
    size = random.poisson(random.uniform(1, 6), points) if random.random() < 0.5 else random.lognormal(0, 0.6, points)
    return np.asarray(happens * size, dtype=np.float64)


def stairs(random: Random, points: int, period: int) -> Values:
    """Levels or slopes that hold for a while."""
    places = np.sort(random.integers(0, points, int(random.integers(1, 12))))
    which = np.searchsorted(places, np.arange(points), "right")
    values = random.standard_normal(len(places) + 1)[which] * 2
    if random.random() < 0.3:
        values = np.cumsum(values) / points * 8
    noise = random.standard_normal(points) * random.uniform(0, 0.5)
    return values + noise + (_season(random, points, period) * random.random() if period > 1 else 0)


MAKERS: tuple[Callable[[Random, int, int], Values], ...] = (
    gaussian_process, smoothing, arma, walk, rhythm, intermittent, stairs,
)  # fmt: skip
CHANCES = (0.25, 0.25, 0.1, 0.08, 0.2, 0.05, 0.07)


# -- files -------------------------------------------------------------------------------------------------------------


def write(path: Path, series: int, events: int, *, seed: int = 0, jobs: int = 1, overwrite: bool = False) -> None:
    """Write series and events to learn from.

    Args:
        path: of the npz file.
        series: how many.
        events: how many.
        seed: of all.
        jobs: processes.
        overwrite: an existing file.
    """
    with ProcessPoolExecutor(jobs) as pool:
        made = list(pool.map(partial(make_series, seed), range(series), chunksize=64))
        told = list(pool.map(partial(make_event, seed), range(events), chunksize=256))
    columns: dict[str, Any] = {
        "series": np.stack([values for values, _ in made]).astype(np.float32),
        "period": np.array([period for _, period in made]),
    }
    for number, name in enumerate(Event._fields[:-1]):
        columns[name] = np.array([event[number] for event in told])
    columns["text"] = np.frombuffer("\0".join(event.text for event in told).encode(), np.uint8)
    with whole(path, overwrite=overwrite) as aside, aside.open("wb") as file:
        np.savez(file, **columns)


def load(path: Path) -> tuple[list[Track], list[Event]]:
    """Read what `write` wrote.

    Raises:
        InputError: it is no such file.
    """
    try:
        with np.load(path) as columns:
            rows, periods = columns["series"].astype(np.float64), columns["period"].tolist()
            texts = columns["text"].tobytes().decode().split("\0")
            fields = zip(*(columns[name].tolist() for name in Event._fields[:-1]), texts, strict=True)
            events = [Event(*field) for field in fields]
    except (OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no file of synthetic series ({error}).", "python -m zoo_forecast.synth") from error
    tracks = [
        Track(f"synthetic/{number}", row, period, group="synthetic")
        for number, (row, period) in enumerate(zip(rows, periods, strict=True))
    ]
    return tracks, events


def with_event(seed: int, index: int, *, part: Of = "test", kind: str | None = None) -> tuple[Values, int, str]:
    """Return a series to test with, whose last 24 points an event has changed, its period, and the text.

    Args:
        seed: of all.
        index: which, below 2**29.
        part: whose phrases tell it; each part has series of its own.
        kind: of event; default any that is learnt.
    """
    # numbers from the other end, which no training reaches
    own = 2**31 + PARTS.index(part) * 2**29 + index
    values, period = make_series(seed, own, TESTED_CONTEXT + TESTED_HORIZON)
    event = make_event(seed, index, part=part, kind=kind)
    context = values[:TESTED_CONTEXT]
    mean, std = context.mean(), context.std() or 1.0
    if not event.happens:
        return values, period, event.text
    numbers = (float(event.onset), float(event.duration), event.size)
    onset, duration, size = (torch.tensor([number]) for number in numbers)
    changed = effect(
        torch.from_numpy((values - mean) / std)[None], torch.arange(-TESTED_CONTEXT, TESTED_HORIZON),
        torch.tensor([mean / std]), torch.tensor([period]), torch.tensor([event.kind]), onset, duration, size,
        torch.tensor([event.relative]),
    )  # fmt: skip
    return changed[0].numpy() * std + mean, period, event.text


def write_tested(
    path: Path, series: int, *, seed: int = 0, part: Of = "test", kind: str | None = None, overwrite: bool = False
) -> None:
    """Write a pack to test with: hours, the text beside the last point of the context, `is_test` behind it."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    points = TESTED_CONTEXT + TESTED_HORIZON
    made = [with_event(seed, index, part=part, kind=kind) for index in range(series)]
    start = np.datetime64("2020-01-01T00", "us")
    columns = {
        "item_id": np.repeat([f"event-{number:05}" for number in range(series)], points),
        "timestamp": np.tile(start + np.arange(points) * np.timedelta64(1, "h"), series),
        "target": np.concatenate([values for values, _, _ in made]).astype(np.float32),
        "is_test": np.tile(np.arange(points) >= TESTED_CONTEXT, series),
        "period": np.repeat([period for _, period, _ in made], points),
    }
    texts: list[str | None] = []
    for _, _, text in made:
        texts += [None] * (TESTED_CONTEXT - 1) + [text or None] + [None] * TESTED_HORIZON
    table = arrow.table({**columns, "text": arrow.array(texts, arrow.string())})
    with whole(path, overwrite=overwrite) as aside:
        parquet.write_table(table, aside, compression="zstd")


def main(arguments: list[str] | None = None) -> int:
    """Write the file that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a file .npz to learn from, or .parquet to test with")
    parser.add_argument("--series", type=int, default=20_000, help="how many (default 20000)")
    parser.add_argument("--events", type=int, default=20_000, help="how many, in an npz (default 20000)")
    parser.add_argument("--part", choices=PARTS[1:], default="test", help="in a parquet: whose phrases (default test)")
    parser.add_argument("--kind", choices=[HELD_KIND], help="in a parquet: the kind of event that is never learnt")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args(arguments)
    if options.out.suffix == ".npz":
        write(options.out, options.series, options.events, seed=options.seed, jobs=options.jobs,
              overwrite=options.overwrite)  # fmt: skip
    elif options.out.suffix == ".parquet":
        write_tested(options.out, options.series, seed=options.seed, part=options.part, kind=options.kind,
                     overwrite=options.overwrite)  # fmt: skip
    else:
        raise UsageError(f"{options.out} is neither .npz nor .parquet.")
    sys.stdout.write(f"{options.out}: {options.out.stat().st_size / 2**20:.1f} MiB\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
