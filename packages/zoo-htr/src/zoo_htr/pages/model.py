"""A page as data: its regions and lines, in reading order, in the units of the file that describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Point: TypeAlias = tuple[float, float]
Points: TypeAlias = tuple[Point, ...]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom
Unit: TypeAlias = Literal["pixel", "mm10", "inch1200"]
Kind: TypeAlias = Literal["alto", "page"]


@dataclass(frozen=True)
class Region:
    """A block of lines.

    Args:
        id: as in the file; may be empty or not unique.
        polygon: its outline; empty if the file gives none.
        box: its upright box, if the file gives one.
        tags: what kind of block it is, such as "MainZone".
    """

    id: str
    polygon: Points = ()
    box: Box | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of text.

    Args:
        id: as in the file; may be empty or not unique.
        polygon: its outline; empty if the file gives none.
        baseline: the line that the letters stand on; empty if the file gives none.
        box: its upright box, if the file gives one.
        text: what the file says is written there; None if it says nothing.
        tags: what kind of line it is, such as "HeadingLine".
        region: index of its block in the page's `regions`, None if it is in none.
        language: as the file names it.
        right_to_left: whether it is read from right to left.
        place: how many line elements stand before it in the file; what a writer that edits finds it by.
    """

    id: str
    polygon: Points = ()
    baseline: Points = ()
    box: Box | None = None
    text: str | None = None
    tags: tuple[str, ...] = ()
    region: int | None = None
    language: str = ""
    right_to_left: bool = False
    place: int = 0


@dataclass(frozen=True)
class Page:
    """One page.

    Args:
        lines: in reading order.
        regions: in the order of the file.
        width: in `unit`; 0 if the file does not say.
        height: in `unit`; 0 if the file does not say.
        unit: of all coordinates. mm10 is a tenth of a millimetre, inch1200 a twelve-hundredth of an inch.
        image_name: file name of the picture as the file gives it, often a path or a name of another time.
        id: as in the file.
        notes: what was odd about it, in words for the user.
    """

    lines: tuple[Line, ...]
    regions: tuple[Region, ...] = ()
    width: float = 0
    height: float = 0
    unit: Unit = "pixel"
    image_name: str = ""
    id: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageFile:
    """An ALTO or PAGE file: its bytes, which writers edit, and the pages that it describes."""

    name: str
    kind: Kind
    data: bytes
    pages: tuple[Page, ...]
