"""Word pieces are those of the published tokenizer."""

from __future__ import annotations

import random
from importlib.resources import files
from pathlib import Path

import pytest

from zoo_forecast.words import pieces, tokenizer

TEXTS = (
    "Sales rose by 12.5% (year on year).",
    "ÉTÉ à Zürich, naïve café",
    "天气 forecast",
    "unbelievable pneumonoultramicroscopic words",
    "emoji 🙂 and [MASK] and tabs\tand\nlines",
)


@pytest.mark.parametrize("text", TEXTS)
def test_as_the_published_tokenizer(text: str) -> None:
    from transformers import BertTokenizer

    vocabulary = Path(str(files("zoo_forecast") / "vocabulary" / "bert-base-uncased.txt"))
    words = {word: number for number, word in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}
    published = BertTokenizer(vocab=words)
    cut = pieces(text, limit=512)
    assert cut is not None
    assert list(cut.numbers) == published(text)["input_ids"]


def test_words_are_cut_as_in_their_text() -> None:
    draw = random.Random(0)
    signs = [
        *"aZé中한İΣß0,.-'[]#\t\n\r\x00\x1c\u00a0\u2009\u200b\u0301",
        "[SEP]",
        "##ing",
        "a" * 101,
        "sales",
        " ",
        " ",
        " ",
    ]
    for _ in range(500):
        text = "".join(draw.choices(signs, k=draw.randint(1, 20)))
        whole = tokenizer().encode(text, add_special_tokens=False).ids
        cut = pieces(text, limit=512)
        assert (list(cut.numbers[1:-1]) if cut else []) == whole, repr(text)


def test_what_does_not_fit_is_left_out_at_the_end_that_is_named() -> None:
    text = "one two three four five"
    whole = pieces(text, limit=512)
    newest, oldest = pieces(text, limit=5), pieces(text, limit=5, newest=False)
    assert whole is not None
    assert newest is not None
    assert oldest is not None
    assert newest.numbers == (101, *whole.numbers[-4:])
    assert oldest.numbers == (*whole.numbers[:4], 102)
    assert newest.left_out == oldest.left_out == 2


@pytest.mark.parametrize("text", [None, "", " \n", "\u200b"])
def test_no_text(text: str | None) -> None:
    assert pieces(text, limit=512) is None
