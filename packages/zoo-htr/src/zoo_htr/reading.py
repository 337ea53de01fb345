"""What a decoder reads in one line: text, and how sure it is of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Char:
    """One symbol.

    Args:
        text: the symbol.
        confidence: probability that it is right, in [0, 1].
        start: first frame of the network's output that shows it.
        end: the frame after the last one.
        alternatives: other symbols for the same place with their probabilities, best first.
    """

    text: str
    confidence: float
    start: int
    end: int
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Word:
    """Symbols between blanks; confidence and frames as in `Char`."""

    text: str
    confidence: float
    start: int
    end: int
    chars: tuple[Char, ...]


@dataclass(frozen=True)
class Reading:
    """One line's text.

    Args:
        chars: in reading order.
        confidence: of the line, in [0, 1]; 1 minus the share of characters that are expected to be wrong.
        score: log probability that the decoder gives the text, in nats; comparable within one line only.
        others: the next best texts and their scores, best first.
        word_confidences: of each word, in order, if a calibration knows better than the characters' mean.
        exact: probability that the line has no error; None without a calibration.
        before: what was read before post-correction changed it; empty if it did not.
    """

    chars: tuple[Char, ...]
    confidence: float
    score: float
    others: tuple[tuple[str, float], ...] = ()
    word_confidences: tuple[float, ...] = ()
    exact: float | None = None
    before: str = ""

    @property
    def text(self) -> str:
        """The line as a string."""
        return "".join(char.text for char in self.chars)

    def words(self) -> Iterator[Word]:
        """Yield what stands between blanks; uncalibrated confidences are geometric means of the characters'."""
        kept: list[Char] = []
        calibrated = iter(self.word_confidences)
        for char in (*self.chars, Char(" ", 1.0, 0, 0)):
            if char.text != " ":
                kept.append(char)
            elif kept:
                product = 1.0
                for part in kept:
                    product *= max(part.confidence, 1e-9)
                text = "".join(part.text for part in kept)
                sure = next(calibrated, product ** (1 / len(kept)))
                yield Word(text, sure, kept[0].start, kept[-1].end, tuple(kept))
                kept = []
