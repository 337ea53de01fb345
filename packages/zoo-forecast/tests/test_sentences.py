"""Texts of packs that are cut to a few sentences, and made claims among such sentences."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo_forecast.corpus import Corpus, Track
from zoo_forecast.events import make_event
from zoo_forecast.sentences import MOST_WORDS, VERSIONS, among, cut, numbers_of_versions, sentences_of, versions
from zoo_forecast.windows import CHOICES, Shares, Windows

CPU = torch.device("cpu")
GROUPS = {"few": np.arange(400) % 4, "many": 4 + np.arange(400) // 10}
TEXT = "Shares fell by 3.5% on Friday. The board met twice; a new chair was named in May. Trade with Asia grew slowly."


def test_sentences_end_where_sentences_do() -> None:
    assert sentences_of(TEXT) == [
        "Shares fell by 3.5% on Friday.",
        "The board met twice;",
        "a new chair was named in May.",
        "Trade with Asia grew slowly.",
    ]
    assert sentences_of(" no stop ") == ["no stop"]


def test_a_text_is_cut_to_neighbouring_sentences_of_its_own() -> None:
    made = {cut(TEXT, np.random.default_rng(seed)) for seed in range(100)}
    assert all(one in TEXT for one in made)
    assert {len(sentences_of(one)) for one in made} == {1, 2, 3}
    assert len(cut("word " * 500, np.random.default_rng(0)).split()) == MOST_WORDS


def test_a_claim_stands_whole_among_sentences_of_others() -> None:
    events = [make_event(0, number) for number in range(100)]
    made = among(events, [TEXT], 0.5, seed=1)
    changed = 0
    for before, after in zip(events, made, strict=True):
        assert before.text in after.text
        assert before._replace(text="") == after._replace(text="")
        assert after.text or not before.text
        changed += after.text != before.text
    assert 20 < changed < 60  # half of those that have a text
    assert among(events, [TEXT], 0.5, seed=1) == made
    assert among(events, [TEXT], 0.0, seed=1) == events


def marked(shares: dict[str, float], cuts: Tensor | None, count: int) -> Tensor:
    """Return the number of the text beside each of 64 windows, -1 for none."""
    values = np.arange(400, dtype=np.float64)
    corpus = Corpus([Track("a", values, 7, np.where(values < 100, -1, 2 + values // 200).astype(np.int32), "a")], CPU)
    texts = torch.zeros(count, 48, 384)
    texts[:, 0, 0] = torch.arange(count) + 1.0
    chances = torch.rand(64, CHOICES, generator=torch.Generator().manual_seed(0))
    whole = Shares(**{**dict.fromkeys(Shares._fields, 0.0), **shares})
    text = Windows(corpus, corpus, None, texts, whole, 48, cuts)(chances).inputs.text
    assert text is not None
    return text[:, 0, 0] - 1


def test_every_pack_lends_as_many_texts() -> None:
    few, many = (Track(name, np.arange(400.0), 7, numbers.astype(np.int32), name) for name, numbers in GROUPS.items())
    silent = Track("none", np.arange(400.0), 7, None, "none")
    texts = torch.zeros(60, 48, 384)
    spoken = Windows(Corpus([few, many, silent], CPU), Corpus([few], CPU), None, texts, Shares(), 48).spoken
    assert (spoken < 4).sum() == (spoken >= 4).sum() == 40
    assert len(Windows(Corpus([silent], CPU), Corpus([few], CPU), None, texts, Shares(), 48).spoken) == 0


def test_windows_get_sentences_of_the_same_text() -> None:
    # two texts of events, two of the pack (numbers 2 and 3), and what those were cut to
    cuts = numbers_of_versions(2, 2)
    assert cuts.shape == (4, VERSIONS)
    assert len(versions(["a", "b"], 0)) == cuts.max() + 1 - 4
    count = int(cuts.max()) + 1
    plain = marked({}, None, count)
    assert set(plain.tolist()) == {-1.0, 2.0, 3.0}
    assert torch.equal(marked({}, cuts, count), plain)
    short = marked({"texts_cut": 1.0}, cuts, count)
    for before, after in zip(plain.long().tolist(), short.long().tolist(), strict=True):
        assert after == before == -1 or after in cuts[before].tolist()
    assert len(set(short.tolist())) > 5
    foreign = marked({"texts_cut": 1.0, "foreign_texts": 1.0}, cuts, count)
    assert (foreign >= 4).all()
