"""What writers are given: pages with what was read on them, in the units of the file that is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from zoo_htr.pages.model import Box, Line, Page

# how finely text is written: a line as one string, by words, or by words and characters
Level: TypeAlias = Literal["line", "word", "glyph"]


@dataclass(frozen=True)
class WrittenGlyph:
    """One character: confidence in [0, 1]; alternatives with theirs, best first."""

    text: str
    confidence: float
    box: Box
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class WrittenWord:
    """One word: confidence in [0, 1]; where it stands on the page; what else it may be, best first."""

    text: str
    confidence: float
    box: Box
    glyphs: tuple[WrittenGlyph, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenLine:
    """One line.

    Args:
        line: where it is, with outline and baseline where these are known or could be derived.
        text: what was read; "" if nothing was.
        confidence: in [0, 1]; None if the line could not be read at all.
        words: the text by words.
        others: the next best texts of the line, best first.
    """

    line: Line
    text: str
    confidence: float | None
    words: tuple[WrittenWord, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class WrittenPage:
    """One page.

    Args:
        page: what was known before reading.
        lines: in the order of `page.lines`.
        image_name: file name of the picture, without folders.
        size_px: height and width of the picture.
    """

    page: Page
    lines: tuple[WrittenLine, ...]
    image_name: str
    size_px: tuple[int, int]


@dataclass(frozen=True)
class Provenance:
    """What made a file: goes into every format, so that a text can be traced to the weights that read it.

    Args:
        software: with its version.
        model: id of the model.
        settings: everything else as name and value: weights, normaliser, decoder, language model.
    """

    software: str
    version: str
    model: str
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "; ".join((f"model {self.model}", *(f"{name} {value}" for name, value in self.settings)))
