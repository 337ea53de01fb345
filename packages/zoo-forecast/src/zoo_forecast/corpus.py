"""All series to learn from as one long tensor, with the text that was newest at each point. Lives on the device.

Series come from packs laid out as data/forecast/pretrain: item_id, timestamp, target, and maybe text, of which a text
is usable from the end of its row on. Sums over days, weeks and the like make further series of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.errors import InputError
from zoo_forecast.calendar import Step
from zoo_forecast.series import Values

SHORT = 200  # points below which a series is held out whole or not at all
HELD_SHARE = 0.1  # of a longer one's points, the last
HELD_SERIES = 20  # one of so many short ones
LARGEST_LEVEL = 1e4  # mean over standard deviation
LEAST = 16  # points of a series
LONGEST_PERIOD = 400
COARSER = {288: (3, 12), 48: (48,), 24: (24, 168), 7: (7, 30)}  # points that become one, by period


@dataclass(frozen=True)
class Track:
    """One series.

    Args:
        name: of its pack and item.
        values: (L,) float64, NaN where nothing is there.
        period: m, points after which it usually repeats.
        texts: (L,) numbers of the newest text known BEFORE each point, -1 for none; None if it has none at all.
        group: of series that count together when drawn.
    """

    name: str
    values: Values
    period: int
    texts: NDArray[np.int32] | None = None
    group: str = ""

    @property
    def held(self) -> int:
        """First point that is not learnt: of a short series 0 or its length, by its name."""
        if len(self.values) >= SHORT:
            return len(self.values) - int(HELD_SHARE * len(self.values))
        number = int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=4).digest(), "little")
        return 0 if number % HELD_SERIES == 0 else len(self.values)


@dataclass
class Texts:
    """Distinct texts, numbered as they come."""

    all: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """Return the number of a text."""
        if text not in self.numbers:
            self.numbers[text] = len(self.all)
            self.all.append(text)
        return self.numbers[text]


def read_tracks(packs: Iterable[Path], texts: Texts) -> list[Track]:
    """Read packs, each series and what is made of it.

    Raises:
        InputError: a pack is damaged or has no such columns.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    tracks: list[Track] = []
    for path in packs:
        try:
            table = parquet.read_table(path)
            ids, stamps, target = (table[name].to_numpy() for name in ("item_id", "timestamp", "target"))
        except (arrow.ArrowException, OSError, KeyError) as error:
            raise InputError(f"{path} is no pack of series ({error}).", "Name parquet files of long series.") from error
        said = table["text"].to_pylist() if "text" in table.column_names else None
        begins = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
        for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True):
            order = begin + np.argsort(stamps[begin:end], kind="stable")
            values = target[order].astype(np.float64)
            if len(values) < LEAST or not np.isfinite(values).sum() >= LEAST // 2:
                continue
            step = Step.between(np.unique(stamps[order].astype("datetime64[us]")))
            period = min(step.period if step else 1, LONGEST_PERIOD)
            known = None if said is None else _known_before([said[row] for row in order], texts)
            track = Track(f"{path.stem}/{ids[begin]}", values, period, known, path.stem)
            tracks += [track, *coarser(track)]
    return tracks


def coarser(track: Track) -> list[Track]:
    """Return a series' means over longer steps: of hours those over days and weeks."""
    made = []
    for count in COARSER.get(track.period, ()):
        rows = track.values[len(track.values) % count :].reshape(-1, count)
        if len(rows) >= SHORT:
            seen = np.isfinite(rows).sum(1)
            means = np.where(seen > 0, np.nansum(rows, 1) / np.maximum(seen, 1), np.nan)
            period = track.period // count if count < track.period else {24: 7, 48: 7, 168: 52, 7: 52, 30: 12}[count]
            name, group = f"{track.name}/{count}", f"{track.group}/{count}"
            made.append(replace(track, name=name, values=means, period=period, texts=None, group=group))
    return made


def _known_before(said: Sequence[str | None], texts: Texts) -> NDArray[np.int32]:
    known, newest = np.full(len(said), -1, np.int32), -1
    for place, text in enumerate(said):
        known[place] = newest  # a row's own text is known only after it
        if text is not None and text.strip():
            newest = texts.number(text)
    return known


class Corpus:
    """Tracks as tensors.

    Args:
        tracks: at least one.
        device: where they live.

    Attributes:
        values: all points, each series normalised by the mean and standard deviation of what is learnt of it; 0 where
            nothing is there.
        seen: whether they are there.
        texts: the number of the text that was newest before each, -1 for none.
        begin: (N,) first point of each series.
        learnt: (N,) how many of its points may be learnt.
        length: (N,) how many it has.
        period: (N,).
        level: (N,) its mean over its standard deviation.
        chance: (N,) sums of the chances that series are drawn, up to 1.
    """

    def __init__(self, tracks: Sequence[Track], device: torch.device) -> None:
        values, seen, levels, texts = [], [], [], []
        for track in tracks:
            there = np.isfinite(track.values)
            own = track.values[: track.held][there[: track.held]]
            own = own if len(own) else track.values[there]
            mean, std = own.mean(), own.std() or 1.0
            values.append(np.where(there, (np.nan_to_num(track.values) - mean) / std, 0).astype(np.float32))
            seen.append(there)
            levels.append(np.clip(mean / std, -LARGEST_LEVEL, LARGEST_LEVEL))
            texts.append(track.texts if track.texts is not None else np.full(len(there), -1, np.int32))
        lengths = np.array([len(track.values) for track in tracks])
        learnt = np.array([track.held for track in tracks])
        self.values, self.seen, self.texts = (
            torch.from_numpy(np.concatenate(parts)).to(device) for parts in (values, seen, texts)
        )
        self.begin = torch.from_numpy(np.concatenate([[0], lengths.cumsum()[:-1]])).to(device)
        self.learnt, self.length = (torch.from_numpy(numbers).to(device) for numbers in (learnt, lengths))
        self.period = torch.tensor([track.period for track in tracks], device=device)
        self.level = torch.tensor(np.array(levels), dtype=torch.float32, device=device)
        # a group's chance grows with the root of its size, as does a series' in it: few large sources do not rule
        own = np.where(learnt >= LEAST, np.sqrt(learnt), 0)
        groups: dict[str, list[int]] = {}
        for number, track in enumerate(tracks):
            groups.setdefault(track.group, []).append(number)
        chance = np.zeros(len(tracks))
        for rows in groups.values():
            if own[rows].sum():
                chance[rows] = own[rows] / np.sqrt(own[rows].sum())
        self.chance = torch.tensor(chance.cumsum() / chance.sum(), device=device)
        self.tracks = list(tracks)
        digest = hashlib.sha256()
        for part in (*values, *seen):
            digest.update(part.tobytes())
        self.fingerprint = digest.hexdigest()

    def pick(self, chance: Tensor) -> Tensor:
        """Return series for numbers in [0, 1)."""
        return torch.searchsorted(self.chance, chance.to(self.chance.dtype)).clamp(max=len(self.begin) - 1)

    def around(self, series: Tensor, origin: Tensor, past: int, future: int) -> tuple[Tensor, Tensor]:
        """Return values and whether they are there, (B, past + future), around origins (B,) in series (B,)."""
        time = torch.arange(-past, future, device=origin.device)
        place = origin[:, None] + time
        inside = (place >= 0) & (place < self.length[series][:, None])
        place = (self.begin[series][:, None] + place).clamp(0, len(self.values) - 1)
        seen = self.seen[place] & inside
        return self.values[place] * seen, seen

    def told(self, series: Tensor, origin: Tensor) -> Tensor:
        """Return the number of the newest text that was known at origins (B,), -1 for none."""
        return self.texts[(self.begin[series] + origin).clamp(max=len(self.texts) - 1)].long()
