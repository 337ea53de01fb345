"""Events that change a series' future, and texts that tell of them: without the text nobody could know (spec 8.4).

The grammar is data: `grammar.json`. A text is made of a lead and a claim with a size, a time and a length, between
sentences about other things. Which phrases are learnt, which a model is chosen by (validation) and which it is tested
with follows from a hash of the phrase alone; one kind of event is never learnt. Sizes are words or percentages.

In a claim `[rise|fall]` is the word for up and that for down; `{size}` is an adverb ("by a little"), `{sized}` an
adjective ("slight"), `{a_sized}` that with its article. In times and lengths `{n}` is a number, maybe in words,
`{digits}` one never in words, `{nth}` an ordinal; `{unit}` fits the number and `{one}` is a single unit. Now is the
first point of the future, and hour 7 is seven points later. In other sentences `{any}` is any number. Clauses may stand
behind "it is likely that", fragments only alone or behind a colon. Denials name the event too, some with its direction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

KINDS = ("shift", "trend", "swing", "spike", "outage", "boost")
HELD_KIND = "boost"  # a jump that fades: never seen in training
Of = Literal["learnt", "validation", "test"]
PARTS: tuple[Of, ...] = ("learnt", "validation", "test")
BOUNDS = (0.7, 0.85)  # shares of the phrases up to the end of the first and the second part
FEWEST = 5  # phrases of a list that is split; shorter ones are shared
UNSAID, IN_COLONS = 0.25, 0.3  # shares of claims without a lead, and of clauses whose lead ends in a colon
SPELT = 0.3  # share of numbers in words
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
        told: whether the text is about it.
        text: what is said, or "".
    """

    kind: int
    onset: int
    duration: int
    size: float
    relative: bool
    happens: bool
    told: bool
    text: str


@cache
def grammar() -> Any:
    """Return the phrases."""
    return json.loads((files("zoo_forecast") / "grammar.json").read_text(encoding="utf-8"))


@cache
def part_of(phrase: str) -> Of:
    """Return the part that a phrase belongs to: about 70, 15 and 15 %, whatever list it stands in."""
    place = int.from_bytes(sha256(phrase.encode()).digest()[:4], "big") / 2**32
    return PARTS[sum(place >= bound for bound in BOUNDS)]


def in_part(phrases: Sequence[str], part: Of) -> list[str]:
    """Return the phrases of a part; all where they are too few to be split."""
    if len(phrases) < FEWEST:
        return list(phrases)
    return [phrase for phrase in phrases if part_of(phrase) == part]


def make_event(seed: int, index: int, *, part: Of = "learnt", kind: str | None = None) -> Event:
    """Return the event of a number: always the same one.

    Args:
        seed: of all.
        index: which.
        part: whose phrases tell it.
        kind: of event; default any but the one that is kept.
    """
    random = np.random.default_rng([seed, index, PARTS.index(part), 7])
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
    happens = not denied and (told or part != "learnt" or random.random() < UNTOLD)
    teller = Teller(random, part)
    text = ""
    if told:
        size_said = teller.size(word, size if relative else None)
        text = teller.told(kind, onset, duration, size_said, up=up, denied=denied)
    elif other:
        text = " ".join(teller.others(2))
    return Event(KINDS.index(kind), onset, duration, size if up else -size, relative, happens, told, text)


class Teller:
    """Puts events into words.

    Args:
        random: what chooses.
        part: whose phrases are used.
    """

    def __init__(self, random: np.random.Generator, part: Of) -> None:
        self.random, self.part = random, part
        self.unit, self.units = self.one(grammar()["units"], shared=True)

    def one(self, options: Sequence[Any], *, shared: bool = False) -> Any:
        """Return one of the phrases, of this part unless all parts share them."""
        kept = options if shared else in_part(options, self.part)
        return kept[int(self.random.integers(len(kept)))]

    def others(self, count: int) -> list[str]:
        """Return sentences about other things."""
        chosen = self.random.choice(in_part(grammar()["others"], self.part), count, replace=False)
        return [str(sentence).format(any=self.random.integers(3, 99)) for sentence in chosen]

    def size(self, word: str, share: float | None) -> dict[str, str]:
        """Return a size as adverb and as adjective, from a word or from a share of the level."""
        phrases = grammar()
        if share is None:
            adverb, adjective = (self.one(phrases["sizes"][word][form]) for form in ("adverbs", "adjectives"))
        else:
            adjective = f"{round(100 * share)} {self.one(phrases['percent'], shared=True)}"
            adverb = f"by {self.one(phrases['about'], shared=True)} {adjective}"
        article = "an" if re.match(r"[aeiou]|8|1[18]\b", adjective) else "a"
        return {"size": adverb, "sized": adjective, "a_sized": f"{article} {adjective}"}

    def count(self, phrase: str, number: int) -> str:
        """Return a time or length with its number filled in."""
        phrases = grammar()
        spelt = 0 < number <= len(phrases["numbers"]) and bool(self.random.random() < SPELT)
        ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
        return phrase.format(
            n=phrases["numbers"][number - 1] if spelt else number,
            digits=number,
            nth=phrases["ordinals"][number - 1] if spelt else f"{number}{ending}",
            unit=self.unit if number == 1 else self.units,
            one=self.unit,
        )

    def told(self, kind: str, onset: int, duration: int, size: dict[str, str], *, up: bool, denied: bool) -> str:
        """Return a text that tells of an event, or denies it."""
        phrases = grammar()
        claims = phrases["kinds"][kind]
        clauses, fragments = (claims["denied_" + form if denied else form] for form in ("clauses", "fragments"))
        chosen = self.one(clauses + fragments)
        begin = "past" if onset < 0 else "now" if onset == 0 else "soon"
        said = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", r"\1" if up else r"\2", chosen).format(
            subject=self.one(phrases["subjects"], shared=True),
            time=self.count(self.one(phrases["times"][begin]), onset),
            lasting=self.count(self.one(phrases["lasting"]), duration),
            **size,
        )
        lead = ""
        if self.random.random() > UNSAID:
            alone = chosen in fragments or self.random.random() < IN_COLONS
            lead = self.one(phrases["leads"]["colons" if alone else "clauses"])
        sentence = f"{lead} {said}".strip()
        around = self.others(int(self.random.integers(0, 3)))
        around.insert(int(self.random.integers(0, len(around) + 1)), _sentences(sentence))
        return " ".join(around)


def _sentences(text: str) -> str:
    """Return a text whose sentences begin with capitals, with a full stop."""
    return re.sub(r"(^|\. )([a-z])", lambda match: match[1] + match[2].upper(), text) + "."


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
