"""Where on the page each word and character of a reading stands: frames of the network led back through the cut."""

from __future__ import annotations

from collections.abc import Sequence

from zoo_htr.cutting import HEIGHT_PX, Cut
from zoo_htr.pages.model import Box, Line, Points
from zoo_htr.pages.points import box_of, corners
from zoo_htr.pages.written import WrittenGlyph, WrittenLine, WrittenWord
from zoo_htr.reading import Char, Reading

FRAME_PX = 4  # columns of the line image, at the network's height, that one frame stands for
_REACH = 2  # frames; CTC shows a symbol in fewer frames than it is wide


def placed(line: Line, reading: Reading | None, cut: Cut | None) -> WrittenLine:
    """Return what was read on a line with places in pixels of the page.

    Args:
        line: in pixels.
        reading: what was read; None if the line could not be cut.
        cut: how the line was cut, on which the frames of `reading` lie.
    """
    if reading is None or cut is None:
        return WrittenLine(line, "", None)
    words = list(reading.words())
    # a word begins a little before its first frame, but not before the middle of the gap to the word before it
    spans = _spans([(word.start, word.end) for word in words])
    width_frames = cut.image.shape[1] * HEIGHT_PX / cut.image.shape[0] / FRAME_PX
    limit = box_of(line.polygon)
    others = _word_alternatives([word.text for word in words], [text for text, _ in reading.others])
    return WrittenLine(
        line=line,
        text=reading.text,
        confidence=reading.confidence,
        words=tuple(
            WrittenWord(
                word.text,
                word.confidence,
                _box(cut, span, width_frames, limit),
                _glyphs(word.chars, span, cut, width_frames, limit),
                variants,
            )
            for word, span, variants in zip(words, spans, others, strict=True)
        ),
        others=tuple(text for text, _ in reading.others),
    )


def _word_alternatives(words: Sequence[str], texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Return for each word what other texts of the line have in its place; only texts of as many words have places."""
    rivals = [other for text in texts if len(other := text.split()) == len(words)]
    return [
        tuple(dict.fromkeys(other[place] for other in rivals if other[place] != word))
        for place, word in enumerate(words)
    ]


def _spans(frames: Sequence[tuple[int, int]]) -> list[tuple[float, float]]:
    """Widen spans by `_REACH` on both sides, as far as their neighbours let them."""
    spans = []
    for number, (start, end) in enumerate(frames):
        left, right = float(start - _REACH), float(end + _REACH)
        if number:
            left = max(left, (frames[number - 1][1] + start) / 2)
        if number + 1 < len(frames):
            right = min(right, (end + frames[number + 1][0]) / 2)
        spans.append((left, right))
    return spans


def _glyphs(
    chars: Sequence[Char], word: tuple[float, float], cut: Cut, width_frames: float, limit: Box | None
) -> tuple[WrittenGlyph, ...]:
    spans = _spans([(char.start, char.end) for char in chars])
    return tuple(
        WrittenGlyph(
            char.text,
            char.confidence,
            _box(cut, (max(span[0], word[0]), min(span[1], word[1])), width_frames, limit),
            char.alternatives,
        )
        for char, span in zip(chars, spans, strict=True)
    )


def _box(cut: Cut, frames: tuple[float, float], width_frames: float, limit: Box | None) -> Box:
    """Return the upright box on the page of a span of frames, over the height of the line without its padding."""
    scale = cut.image.shape[0] / HEIGHT_PX  # a picture that is one line is given as it is, in its own height
    left, right = (min(max(frame, 0.0), width_frames) * FRAME_PX * scale for frame in frames)
    pad = cut.pad_px * cut.image.shape[0] / max(cut.box_px[1], 1)
    strip: Points = corners((left, pad, max(right, left + 1), cut.image.shape[0] - pad))
    box = box_of(cut.on_page(strip))
    assert box is not None  # noqa: S101 - four points
    if limit is None:
        return box
    inside = max(box[0], limit[0]), max(box[1], limit[1]), min(box[2], limit[2]), min(box[3], limit[3])
    return inside if inside[0] < inside[2] and inside[1] < inside[3] else box
