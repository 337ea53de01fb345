"""What a user may choose when pages are read. Neither torch nor numpy here: the command's help reads this."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from zoo_core.options import Options

MAX_PAGE_PIXELS = 200_000_000
BELOW = 0.97  # confidence of a greedy reading from which on a beam search is not worth its time


class HTROptions(Options):
    """Options of `zoo predict` for the handwriting models."""

    format: Literal["txt", "json", "csv", "alto", "page", "hocr", "tei"] = Field(
        default="txt",
        description="Files of the results: txt plain text; json one object a text line; csv one row a text line; alto, "
        "page: the input's XML edited, or a new file; hocr; tei: text for an edition.",
    )
    segmenter: Literal["auto", "own", "kraken", "line"] = Field(
        default="auto",
        description="Where lines come from. auto: the ALTO or PAGE file with the picture, else a low and wide picture "
        "is one line, else own. own: our finder, for clean pages of one column. kraken: kraken's. line: every picture "
        "is one line.",
    )
    fit_lines: bool = Field(
        default=False,
        description="Add paper above and below pictures of single lines that are cropped to their letters.",
    )
    kraken: str | None = Field(
        default=None, description="How kraken is started; default the variable KRAKEN, else kraken on the PATH."
    )
    image_dir: Path | None = Field(default=None, description="Folder of the pictures that XML inputs describe.")
    image_map: Path | None = Field(
        default=None, description="Table of them: in each line the name of an XML file, a tab, its picture."
    )
    reading_order: Literal["file", "geometric"] = Field(
        default="file", description="Order of the lines: that of the XML, or by their places on the page."
    )
    string_level: Literal["auto", "line", "word", "glyph"] = Field(
        default="auto",
        description="How finely alto, page and hocr are written; auto: by words, in page by lines. line: each line one "
        "string, as eScriptorium exports it. glyph: with characters and their alternatives.",
    )
    draw: bool = Field(
        default=False, description="Also write a picture, NAME_lines.jpg: the page with its lines and their text."
    )
    pdf_dpi: int = Field(default=300, ge=72, le=1200, description="Pixels an inch at which pages of a PDF are drawn.")
    suffix: str | None = Field(
        default=None, max_length=100, description="What is added to the name of the input; default nothing."
    )
    decoder: Literal["greedy", "beam"] = Field(
        default="greedy",
        description="greedy: what the network sees, symbol by symbol. beam: a search that also asks a language model.",
    )
    lm: str = Field(
        default="auto", description="Its n-grams: auto (French and English, weighed by the page), fr, en, none, a file."
    )
    beam_width: int = Field(default=16, ge=1, le=1000, description="How many texts the beam search keeps.")
    beam_below: float = Field(
        default=BELOW,
        ge=0,
        le=1,
        description="The beam search reads the lines that greedy is less sure of than this (mean posterior of its "
        "symbols); 1: all lines, as with a lexicon.",
    )
    lexicon: Path | None = Field(
        default=None, description="Words, one a line, that the beam search prefers; others stay possible."
    )
    charset: str | None = Field(
        default=None, max_length=500, description="Characters that may be read, such as 0-9/ or A-Za-z ."
    )
    choices: Path | None = Field(
        default=None, description="All texts that a line can have, one a line; the likeliest of them is taken."
    )
    correct: bool = Field(
        default=False, description="Let the language model change what greedy is unsure of; results keep both texts."
    )
    calibration: Path | None = Field(
        default=None, description="Confidences as python -m zoo_htr.calibrate fitted them; default those of the model."
    )
    deterministic: bool = Field(
        default=False, description="Read every line by itself: the same bits whatever else is on the page; slower."
    )
    max_pixels: int = Field(default=MAX_PAGE_PIXELS, ge=1, description="Refuse pages with more pixels than this.")

    @field_validator("suffix")
    @classmethod
    def _suffix_is_no_path(cls, suffix: str | None) -> str | None:
        if suffix is not None and re.search(r"[/\\\0]", suffix):
            raise ValueError("a suffix is a part of a file name, without slashes")
        return suffix
