"""Events that change a series' future, and texts that tell of them: without the text nobody could know (spec 8.4).

The grammar is data: `grammar.json`. A text is made of a lead, a claim and a time, between sentences about other things;
a fifth of each is kept for tests, and one kind of event. Sizes are words or percentages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

KINDS = ("shift", "trend", "swing", "spike", "outage", "boost")
HELD_KIND = "boost"  # a jump that fades: never seen in training
HELD = 5  # one of so many phrases is kept for tests
TOLD, OTHER = 0.7, 0.15  # shares of events that a text tells of, and of texts about other things; the rest has none
UNTOLD = 0.3  # share of the untold ones that happen, where they are learnt from; for tests all do
DENIED = 0.1  # share of the told ones in which a text says that nothing happens, and nothing does
SIZES = {"slight": 0.4, "moderate": 0.9, "strong": 1.8, "extreme": 3.0}  # in standard deviations of the context
LARGEST_LEVEL = 6.0


class Event(NamedTuple):
    """What happens.

    Args:
        kind: number in `KINDS`.
        onset: points from the origin, -2 to 23.
        duration: points.
        size: signed; in standard deviations of the context, or as a share of the level.
        relative: whether it is such a share.
        happens: whether it happens at all.
        text: what is said, or "".
    """

    kind: int
    onset: int
    duration: int
    size: float
    relative: bool
    happens: bool
    text: str


@lru_cache(maxsize=1)
def grammar() -> Any:
    """Return the phrases."""
    return json.loads((files("zoo_forecast") / "grammar.json").read_text(encoding="utf-8"))


def make_event(seed: int, index: int, *, held: bool = False, kind: str | None = None) -> Event:
    """Return the event of a number: always the same one.

    Args:
        seed: of all.
        index: which.
        held: tell it in phrases that are kept for tests.
        kind: of event; default any but the one that is kept.
    """
    random = np.random.default_rng([seed, index, int(held), 7])
    kinds = [name for name in KINDS if name != HELD_KIND]
    kind = kind or kinds[random.integers(len(kinds))]
    onset = int(np.floor(25 ** random.random())) - 1 if random.random() > 0.15 else -int(random.integers(1, 3))
    duration = int(np.ceil(2 * 12 ** random.random()))
    up = bool(random.random() < 0.5) and kind != "outage"
    relative = bool(random.random() < 0.4) and kind in ("shift", "trend", "spike", "boost")
    word = list(SIZES)[random.integers(4)]
    if relative:
        size = float(np.round(0.05 * 12 ** random.random(), 2))
    else:
        size = SIZES[word] * float(np.exp(0.15 * random.standard_normal()))
    denied, fate = bool(random.random() < DENIED), random.random()
    told, other = fate < TOLD, TOLD <= fate < TOLD + OTHER
    denied = denied and told
    # in learning, most of what is not told does not happen: a series without a text must not look as if it could jump
    happens = not denied and (told or held or random.random() < UNTOLD)
    phrases = grammar()
    text = ""
    if told:
        text = _told(random, phrases, kind, onset, duration, word, size if relative else None, up=up, denied=denied,
                     held=held)  # fmt: skip
    elif other:
        text = " ".join(str(sentence) for sentence in random.choice(phrases["others"], 2, replace=False))
    return Event(KINDS.index(kind), onset, duration, size if up else -size, relative, happens, text)


def _told(
    random: np.random.Generator, phrases: Any, kind: str, onset: int, duration: int, word: str, share: float | None, *,
    up: bool, denied: bool, held: bool,
) -> str:  # fmt: skip
    def one(options: list[str], *, all_of_them: bool = False) -> str:
        kept = [
            o for n, o in enumerate(options) if all_of_them or len(options) < HELD or (n % HELD == HELD - 1) == held
        ]
        return str(kept[random.integers(len(kept))])

    unit = one(phrases["units"], all_of_them=True)
    size = f"{round(100 * share)} {one(phrases['percent'], all_of_them=True)}" if share is not None else ""
    size = f"by {one(phrases['about'], all_of_them=True)} {size}" if size else one(phrases["sizes"][word])
    claims = phrases["kinds"][kind]
    claim = one(claims["denied" if denied else "up" if up else "down"])
    begin = "past" if onset < 0 else "now" if onset == 0 else "soon"
    time = one(phrases["times"][begin]).format(n=onset, unit=unit if onset != 1 else unit.removesuffix("s"))
    lasting = one(phrases["lasting"]).format(n=duration, unit=unit) if "{lasting}" in claim else ""
    subject = one(phrases["subjects"], all_of_them=True)
    said = claim.format(subject=subject, size=size, time=time, lasting=lasting)
    lead = one(phrases["leads"])
    sentence = f"{lead} {said}." if lead else f"{said[0].upper()}{said[1:]}."
    around = [str(s) for s in random.choice(phrases["others"], int(random.integers(0, 3)), replace=False)]
    around.insert(int(random.integers(0, len(around) + 1)), " ".join(sentence.split()))
    return " ".join(around)


@dataclass
class Events:
    """Events as tensors.

    Args:
        events: at least one.
        first_text: number of the text of the first event that has one.
        device: where they live.
    """

    def __init__(self, events: list[Event], first_text: int, device: torch.device) -> None:
        def column(values: list[Any], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        self.kind = column([e.kind for e in events], torch.int64)
        self.onset, self.duration = (column([getattr(e, n) for e in events], torch.float32) for n in Event._fields[1:3])
        self.size = column([e.size for e in events], torch.float32)
        self.relative, self.happens = (column([getattr(e, n) for e in events], torch.bool) for n in Event._fields[4:6])
        numbers, next_text = [], first_text
        for event in events:
            numbers.append(next_text if event.text else -1)
            next_text += bool(event.text)
        self.text = column(numbers, torch.int64)

    def happen(
        self, values: Tensor, time: Tensor, level: Tensor, period: Tensor, where: Tensor, chance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let events happen.

        Args:
            values: (B, T), normalised.
            time: (T,) points from the origin.
            level: (B,) mean over deviation.
            period: (B,) of the series.
            where: (B,) bool.
            chance: (B,) uniform numbers, which event.

        Returns:
            the values, and numbers of texts (B,), -1 for none.
        """
        row = (chance * len(self.kind)).long().clamp(max=len(self.kind) - 1)
        happens = where & self.happens[row]
        changed = effect(
            values, time, level, period, self.kind[row], self.onset[row], self.duration[row], self.size[row],
            self.relative[row],
        )  # fmt: skip
        return torch.where(happens[:, None], changed, values), self.text[row]


def effect(
    values: Tensor, time: Tensor, level: Tensor, period: Tensor, kind: Tensor, onset: Tensor, duration: Tensor,
    size: Tensor, relative: Tensor,
) -> Tensor:  # fmt: skip
    """Return normalised series (B, T) with an event in each; arguments as of `Events.happen` and `Event`."""
    # a share of the level is read as if the level were 1 to 6 deviations
    size = torch.where(relative, size * level.abs().clamp(1, LARGEST_LEVEL), size)[:, None]
    since = time - onset[:, None]
    after, within = since >= 0, (since >= 0) & (since < duration[:, None])
    far = since.clamp(min=0) / duration[:, None]
    context = (time < 0) & (time >= -2 * period[:, None].clamp(min=6))
    middle = (values * context).sum(1, keepdim=True) / context.sum(1, keepdim=True)
    swing = torch.where(size > 0, 1 + 0.5 * size, 1 / (1 - 0.5 * size))
    floor = -level.abs().clamp(1.5, LARGEST_LEVEL)[:, None]
    effects = [
        values + size * after,
        values + size * far.clamp(max=1),
        torch.where(after, middle + (values - middle) * swing, values),
        values + 2 * size * ((since >= 0) & (since < 2)),
        torch.where(within, floor, values),
        values + size * after * (-far).exp(),
    ]
    chosen = kind[:, None]
    for number, made in enumerate(effects):
        values = torch.where(chosen == number, made, values)
    return values
