"""What Aurora small learns from: made series, events, packs, and what may never be looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from zoo_forecast.corpus import SHORT, Corpus, Texts, Track, coarser, read_tracks
from zoo_forecast.events import (
    HELD_KIND,
    KINDS,
    PARTS,
    Events,
    Of,
    Teller,
    effect,
    grammar,
    in_part,
    make_event,
    part_of,
)
from zoo_forecast.synth import MAKERS, TESTED_CONTEXT, TESTED_HORIZON, load, main, make_series
from zoo_forecast.windows import CHOICES, FUTURE, PAST, Shares, Windows, normalised

CPU = torch.device("cpu")


@pytest.mark.parametrize("maker", MAKERS)
def test_every_kind_of_series_is_finite_and_repeats(maker: object) -> None:
    for period in (1, 4, 24, 288):
        one, other = (maker(np.random.default_rng(period), 600, period) for _ in range(2))  # type: ignore[operator]
        assert one.shape == (600,)
        assert np.isfinite(one).all()
        assert np.array_equal(one, other)


def test_a_series_belongs_to_its_number() -> None:
    assert np.array_equal(make_series(3, 5)[0], make_series(3, 5)[0])
    assert not np.array_equal(make_series(3, 5)[0], make_series(3, 6)[0])
    assert not np.array_equal(make_series(3, 5)[0], make_series(4, 5)[0])


def test_files_hold_what_was_made(tmp_path: Path) -> None:
    path = tmp_path / "made.npz"
    assert main([str(path), "--series", "5", "--events", "30", "--seed", "2"]) == 0
    tracks, events = load(path)
    assert np.array_equal(tracks[3].values.astype(np.float32), make_series(2, 3)[0].astype(np.float32))
    assert events[7] == make_event(2, 7)


def test_a_pack_to_test_with_tells_before_the_future_begins(tmp_path: Path) -> None:
    path = tmp_path / "told.parquet"
    assert main([str(path), "--series", "20"]) == 0
    table = parquet.read_table(path)
    rows = TESTED_CONTEXT + TESTED_HORIZON
    assert table.num_rows == 20 * rows
    texts, test = table["text"].to_pylist(), table["is_test"].to_numpy()
    places = {row % rows for row, text in enumerate(texts) if text}
    assert places == {TESTED_CONTEXT - 1}
    assert test.sum() == 20 * TESTED_HORIZON
    assert main([str(tmp_path / "chosen.parquet"), "--series", "20", "--part", "validation"]) == 0
    chosen = parquet.read_table(tmp_path / "chosen.parquet")
    assert not {text for text in chosen["text"].to_pylist() if text} & set(texts)
    assert chosen["target"] != table["target"]


def lists(tree: Any) -> Iterator[list[str]]:
    """Return all lists of phrases that are split."""
    shared = ("units", "numbers", "ordinals", "percent", "about", "subjects")
    for name, below in tree.items():
        if isinstance(below, dict):
            yield from lists(below)
        elif name not in shared:
            yield below


def core(phrase: str) -> str:
    """Return the longest piece of a phrase that stands in every text made with it."""
    return max((piece.strip() for piece in re.split(r"\{\w+\}|\[[^]]*\]", phrase)), key=len)


def denial(number: int) -> str:
    """Return a text in learnt phrases that denies an event."""
    teller = Teller(np.random.default_rng([2, number]), "learnt")
    kind, up = KINDS[number % len(KINDS)], number % 4 < 2
    return teller.told(kind, number % 24, 3 + number % 22, teller.size("strong", None), up=up, denied=True)


@pytest.fixture(scope="module")
def texts() -> dict[Of, list[str]]:
    counts = {"learnt": 15_000, "validation": 3_000, "test": 3_000}
    made = {part: [make_event(0, n, part=part).text for n in range(counts[part])] for part in PARTS}
    made["learnt"] += [make_event(1, n, kind=HELD_KIND).text for n in range(4_000)]  # what it could say
    made["learnt"] += [denial(n) for n in range(5_000)]  # of which there are few otherwise
    return {part: [text for text in rows if text] for part, rows in made.items()}


def test_each_list_has_phrases_in_each_part_and_none_in_two() -> None:
    for phrases in lists(grammar()):
        parts = [in_part(phrases, part) for part in PARTS]
        assert all(parts)
        assert sorted(phrase for part in parts for phrase in part) == sorted(set(phrases))
    everything = [phrase for phrases in lists(grammar()) for phrase in phrases]
    learnt = len(in_part(everything, "learnt")) / len(everything)
    assert 0.65 < learnt < 0.75


def test_a_phrase_keeps_its_part_when_others_come_and_go() -> None:
    leads = grammar()["leads"]["clauses"]
    assert in_part(leads[5:30], "test") == [lead for lead in in_part(leads, "test") if lead in leads[5:30]]
    # sha256 of these begins with 08b9987b (0.03 of the range) and, for the second, lies in the last 15 %
    assert part_of("analysts expect that") == "learnt"
    assert part_of("officials confirmed that") == "test"


def test_phrases_of_other_parts_are_never_learnt(texts: dict[Of, list[str]]) -> None:
    said = {part: " ".join(rows) for part, rows in texts.items()}
    for phrase in (*grammar()["others"], *grammar()["leads"]["clauses"], *grammar()["leads"]["colons"]):
        unlike = core(phrase)[1:]  # without the letter that may be a capital
        if len(unlike) > 15:
            assert [part for part in PARTS if unlike in said[part]] == [part_of(phrase)]
    assert all(KINDS[make_event(0, n).kind] != HELD_KIND for n in range(500))
    assert KINDS[make_event(0, 1, part="test", kind=HELD_KIND).kind] == HELD_KIND


def test_every_phrase_of_the_learnt_part_is_learnt(texts: dict[Of, list[str]]) -> None:
    said = " ".join(texts["learnt"])
    for phrases in lists(grammar()):
        for phrase in in_part(phrases, "learnt"):
            assert core(phrase)[1:] in said, phrase


def test_texts_are_filled_in_and_written_as_english_is(texts: dict[Of, list[str]]) -> None:
    plurals = "|".join(plural for _, plural in grammar()["units"])
    wrong = re.compile(
        r"  |[{}\[\]|]|\s[,.;:]|\.\.|,,|\b[Aa] (?:[aei]|8)|\b[Aa]n [b-df-gj-np-tv-z]|\b(?:[Nn]o|[Zz]ero|[Aa]) the\b"
        rf"|(?<!-)\b(?:1|one|1st|first) (?:{plurals})\b"
    )
    for rows in texts.values():
        for text in rows:
            assert text[0].isupper() or not text[0].isalpha(), text
            assert text.endswith("."), text
            assert not wrong.search(text), text


def test_each_kind_is_told_and_denied_in_many_ways() -> None:
    for claims in grammar()["kinds"].values():
        assert len(set(claims["clauses"] + claims["fragments"])) >= 170
        assert len(set(claims["denied_clauses"] + claims["denied_fragments"])) >= 100


@pytest.mark.parametrize("denied", [False, True])
def test_a_fragment_never_completes_a_sentence(denied: bool) -> None:
    fragments = grammar()["kinds"]["outage"]["denied_fragments" if denied else "fragments"]
    beginnings = [beginning for phrase in fragments if len(beginning := re.split(r"[{[]", phrase)[0]) > 8]
    teller, size = Teller(np.random.default_rng(0), "learnt"), {"size": "much", "sized": "big", "a_sized": "a big"}
    said = " ".join(teller.told("outage", 3, 5, size, up=False, denied=denied) for _ in range(3_000))
    assert sum(f": {beginning}" in said for beginning in beginnings) > len(beginnings) / 2
    assert not [beginning for beginning in beginnings if f"that {beginning}" in said]


def test_events_belong_to_their_number_and_part() -> None:
    for part in PARTS:
        assert make_event(3, 4, part=part) == make_event(3, 4, part=part)
    assert len({make_event(3, 4, part=part) for part in PARTS}) == 3


def test_a_text_says_what_happens() -> None:
    for number in range(400):
        event = make_event(1, number)
        if event.text and event.happens and KINDS[event.kind] == "shift" and event.relative:
            share = f"{round(100 * abs(event.size))} "
            assert share in event.text or "%" not in event.text
        if event.onset > 1 and event.text and f" {event.onset} " in event.text:
            return
    pytest.fail("no text names its onset")


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_changes_the_future_and_only_from_its_onset_on(kind: str) -> None:
    time = torch.arange(-50, 24)
    values = torch.sin(time / 3.0)[None]
    one = torch.ones(1)
    changed = effect(
        values, time, one, one.long() * 19, one.long() * KINDS.index(kind), 5 * one, 4 * one, -one, one > 2
    )  # fmt: skip
    assert torch.equal(changed[:, :55], values[:, :55])
    assert (changed[:, 55:] - values[:, 55:]).abs().max() > 0.3


def tracks(count: int, length: int, text: bool = False) -> list[Track]:
    made = []
    for number in range(count):
        values = np.arange(length, dtype=np.float64) + np.random.default_rng(number).standard_normal(length)
        known = np.arange(length, dtype=np.int32) // 10 if text else None
        made.append(Track(f"t{number}", values, 7, known, "t"))
    return made


def test_what_is_held_out_is_never_in_a_window() -> None:
    plain = Shares(*[0.0] * len(Shares._fields))
    chances = torch.rand(64, CHOICES, generator=torch.Generator().manual_seed(0))
    made = []
    for coming in (0.0, 500.0):
        series = tracks(3, 400)
        for track in series:
            track.values[track.held :] += coming
        corpus = Corpus(series, CPU)
        made.append(Windows(corpus, corpus, None, None, plain, 48)(chances))
    assert [track.held for track in tracks(3, 400)] == [360] * 3
    assert made[0].asked.sum() > 0
    assert torch.equal(made[0].target * made[0].asked, made[1].target * made[1].asked)
    for one, other in zip(made[0].inputs, made[1].inputs, strict=True):
        assert one is other is None or torch.equal(one, other)  # type: ignore[arg-type]


def test_short_series_are_held_out_whole_or_not_at_all() -> None:
    held = {track.held for track in tracks(200, SHORT - 1)}
    assert held == {0, SHORT - 1}


def test_a_text_is_known_only_after_its_row(tmp_path: Path) -> None:
    import pyarrow as arrow

    stamps = np.datetime64("2024-01-01", "us") + np.arange(40) * np.timedelta64(1, "D")
    texts = [f"day {n}" if n % 2 == 0 else None for n in range(40)]
    path = tmp_path / "told.parquet"
    table = {"item_id": ["a"] * 40, "timestamp": stamps, "target": np.arange(40.0), "text": texts}
    parquet.write_table(arrow.table(table), path)
    known = Texts()
    (track,) = read_tracks([path], known)
    assert track.period == 7
    assert track.texts is not None
    assert track.texts[0] == -1
    assert known.all[track.texts[4]] == "day 2"
    assert known.all[track.texts[5]] == "day 4"


def test_hours_make_days_of_weeks() -> None:
    hourly = Track("h", np.arange(24 * 300, dtype=np.float64), 24)
    (days,) = coarser(hourly)
    assert days.period == 7
    assert np.allclose(days.values[:2], [11.5, 35.5])


def test_windows_are_normalised_and_told() -> None:
    corpus = Corpus(tracks(3, 400, text=True), CPU)
    events = Events([make_event(0, n) for n in range(20)], 0, CPU)
    texts = torch.randn(60, 48, 384).half()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        window = Windows(corpus, corpus, events, texts, Shares(), 48)(torch.rand(64, CHOICES))
    assert window.inputs.text is not None
    told = window.inputs.text.flatten(1).any(1)
    assert told.any()
    assert not told.all()
    for numbers in (window.target, *window.inputs):
        assert torch.isfinite(numbers).all()  # type: ignore[arg-type]


def test_texts_of_other_series_come_where_there_are_none() -> None:
    """Else a text that says nothing of a series would still tell what kind of series it is."""
    corpus = Corpus([*tracks(1, 400, text=True), *tracks(2, 400)], CPU)
    texts, chances = (
        torch.randn(60, 48, 384).half(),
        torch.rand(64, CHOICES, generator=torch.Generator().manual_seed(0)),
    )
    plain = dict.fromkeys(Shares._fields, 0.0)
    windows = [
        Windows(corpus, corpus, None, texts, Shares(**{**plain, "foreign_texts": share}), 48)(chances)
        for share in (0.0, 1.0)
    ]
    own, all_told = (window.inputs.text.flatten(1).any(1) for window in windows)  # type: ignore[union-attr]
    assert 0 < own.sum() < len(own)
    assert all_told.all()
    kept = [window.inputs.text[own] for window in windows]  # type: ignore[index]
    assert torch.equal(*kept)  # a series' own text stays
    assert torch.equal(windows[0].target, windows[1].target)


def test_normalising_looks_at_the_context_alone() -> None:
    values = torch.randn(2, PAST + FUTURE)
    there = torch.ones_like(values, dtype=torch.bool)
    changed = values.clone()
    changed[:, PAST:] = 5
    one, other = (normalised(v, there, torch.zeros(2))[0][:, :PAST] for v in (values, changed))
    assert torch.equal(one, other)
    assert torch.allclose(one.mean(1), torch.zeros(2), atol=1e-5)
