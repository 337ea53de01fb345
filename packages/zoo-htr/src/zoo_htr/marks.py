"""Marks that transcribers put around struck words: three habits of public ground truth, brought to one."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Marks: TypeAlias = Literal["keep", "drop", "tei"]
# >word< (Copiste, CREMMA 20), < word > (CREMMA MSS 18), white square brackets (elsewhere)
_OUTWARD = re.compile(r">([^<>]*)<")
_INWARD = re.compile(r"<\s*([^<>/]+?)\s*>")
_BRACKETS = re.compile("\u27e6([^\u27e6\u27e7]*)\u27e7")


def with_marks(text: str, marks: Marks) -> str:
    """Return a text with its struck words as `marks` says.

    Args:
        text: as transcribed.
        marks: keep leaves it as it is, drop takes the struck words out, tei writes them as `<del>word</del>`.
    """
    if marks == "keep":
        return text
    new = (lambda match: "") if marks == "drop" else (lambda match: f"\0{match[1].strip()}\1")
    text = _BRACKETS.sub(new, text)
    # `>a< b >c<` and `<a> b <c>` look alike in the middle: what comes first says which it is
    outward = 0 <= text.find(">") < (text.find("<") if "<" in text else len(text))
    text = (_OUTWARD if outward else _INWARD).sub(new, text)
    return (
        " ".join(text.replace("\0", "<del>").replace("\1", "</del>").split())
        if marks == "tei"
        else " ".join(text.split())
    )
