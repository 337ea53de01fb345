"""Texts of packs cut to a few of their sentences, and claims among such sentences.

The texts of packs are summaries of 70 words and more, those that tell of made events are a sentence or three. So length
alone would say whether a text tells something: any short text would be read as an announcement, and no long one would.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zoo_forecast.events import Event

COUNTS = (1, 1, 1, 2, 2, 3)  # sentences of a cut text, one as likely as another
FEWEST_WORDS = 4  # of a sentence
MOST_WORDS = 60  # of a cut text
VERSIONS = 4  # that a text is cut to
LENGTHS = (1, 1, 2, 4)  # sentences around a claim, on both sides together


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text that have enough words; the text itself where none has."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?;])\s+", text)]
    return [part for part in parts if len(part.split()) >= FEWEST_WORDS] or [text.strip()]


def cut(text: str, random: np.random.Generator) -> str:
    """Return one to three neighbouring sentences of a text, at most 60 words of them."""
    found = sentences_of(text)
    count = min(int(random.choice(COUNTS)), len(found))
    begin = int(random.integers(len(found) - count + 1))
    return " ".join(" ".join(found[begin : begin + count]).split()[:MOST_WORDS])


def versions(texts: Sequence[str], seed: int) -> list[str]:
    """Return what each text is cut to, four of each, one text after the other."""
    random = np.random.default_rng([seed, 13])
    return [cut(text, random) for text in texts for _ in range(VERSIONS)]


def numbers_of_versions(whole: int, texts: int) -> Tensor:
    """Return for each text the numbers of its versions, (whole + texts, 4).

    Args:
        whole: texts that come first and are never cut: all of their versions are they themselves.
        texts: that come next, and behind them what they were cut to.
    """
    behind = whole + texts + torch.arange(texts * VERSIONS).view(texts, VERSIONS)
    return torch.cat([torch.arange(whole)[:, None].expand(whole, VERSIONS), behind])


def among(events: Sequence[Event], texts: Sequence[str], share: float, seed: int) -> list[Event]:
    """Put a share of the texts of events among sentences of others, whole: those stand before and behind them.

    Args:
        events: any.
        texts: at least one.
        share: of the events with a text.
        seed: of all choices.
    """
    made = []
    for number, event in enumerate(events):
        random = np.random.default_rng([seed, number, 11])
        if event.text and random.random() < share:
            around = sentences_of(texts[int(random.integers(len(texts)))])
            count = min(int(random.choice(LENGTHS)), len(around))
            begin = int(random.integers(len(around) - count + 1))
            before = int(random.integers(count + 1))
            chosen = around[begin : begin + count]
            event = event._replace(text=" ".join([*chosen[:before], event.text, *chosen[before:]]))
        made.append(event)
    return made
