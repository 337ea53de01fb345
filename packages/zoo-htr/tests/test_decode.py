"""The decoder as a user meets it: lexicons, sets, closed lists, confidences that mean something, gated correction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from posteriors import spoken
from torch import Tensor

from zoo_core.catalog import find
from zoo_core.errors import InputError, UsageError
from zoo_htr.align import log_likelihoods
from zoo_htr.alphabet import Alphabet
from zoo_htr.beam import beam_search
from zoo_htr.confidence import Calibration, as_json, find_calibration, read_calibration, tempered
from zoo_htr.correct import passes
from zoo_htr.decode import Decoder
from zoo_htr.lexicon import Lexicon, Together, masked, permitted
from zoo_htr.reading import Char, Reading

ALPHABET = Alphabet(tuple(find("htr-jand-student").manifest.config["alphabet"]))


def said(text: str, *doubts: tuple[int, str, float], seed: int = 0) -> Tensor:
    """Log-probabilities that say a text; at a doubt (place, other symbol, its share) another symbol is as likely."""
    frames = []
    rng = np.random.default_rng(seed)
    for i, symbol in enumerate(text):
        probs = rng.dirichlet(np.full(len(ALPHABET), 0.05)) * 1e-3
        probs[ALPHABET.index(symbol)] += 1
        for place, other, share in doubts:
            if place == i:
                probs[ALPHABET.index(symbol)] -= share
                probs[ALPHABET.index(other)] += share
        blank = np.full(len(ALPHABET), 1e-6)
        blank[0] = 1
        frames += [blank, probs + 1e-9]
    table = np.array([*frames, blank])
    return torch.from_numpy(np.log(table / table.sum(axis=1, keepdims=True))).float()


def words_file(tmp_path: Path, *entries: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(entries), "utf-8")
    return path


def test_a_lexicon_decides_between_like_words_and_leaves_names_readable(tmp_path: Path) -> None:
    doubted = said("le chut dort", (5, "a", 0.45))
    known = words_file(tmp_path, "le", "chat", "dort")
    plain = Decoder(ALPHABET, decoder="beam", language="none")
    helped = Decoder(ALPHABET, decoder="beam", language="none", lexicon=known)
    assert plain.read([doubted])[0].text == "le chut dort"
    assert helped.read([doubted])[0].text == "le chat dort"
    assert helped.read([said("le Zyrgw dort, 1824")])[0].text == "le Zyrgw dort, 1824"


def test_an_unknown_word_costs_its_penalty_once() -> None:
    lexicon = Lexicon(["chat", "chats"], ALPHABET, penalty=3.0)
    for text, cost in (
        ("chat", 0),
        ("chats!", 0),
        ("cha", 3),
        ("chien", 3),
        ("chat, xy chats", 3),
        ("x y", 6),
        ("", 0),
    ):
        state, total = lexicon.start(), 0.0
        for symbol in (*map(ALPHABET.index, text), 0):
            total += lexicon.row(state)[symbol]
            state = lexicon.step(state, symbol)
        assert -total == cost, text


def test_scorers_together_say_the_sum() -> None:
    a, b = Lexicon(["ab"], ALPHABET), Lexicon(["ac"], ALPHABET, penalty=1.0)
    both = Together([a, b])
    state = both.step(both.start(), ALPHABET.index("a"))
    assert (both.row(state) == a.row(a.step(0, ALPHABET.index("a"))) + b.row(b.step(0, ALPHABET.index("a")))).all()


def test_a_set_of_characters_is_a_mask_before_the_softmax(tmp_path: Path) -> None:
    logits = torch.randn(9, len(ALPHABET), generator=torch.Generator().manual_seed(1))
    allowed = permitted(ALPHABET, "0-9/")
    ours = masked(logits.log_softmax(1).numpy(), allowed)
    theirs = logits.masked_fill(~torch.from_numpy(allowed), -torch.inf).log_softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    decoder = Decoder(ALPHABET, charset="0-9/", language="none")
    assert set(decoder.read([logits.log_softmax(1)])[0].text) <= set("0123456789/")
    beam = Decoder(ALPHABET, charset="^a-z", decoder="beam", language="fr")
    assert not set(beam.read([logits.log_softmax(1)])[0].text) & set("abcdefghijklmnopqrstuvwxyz")
    for wrong in ("", "z-a", "漢"):
        with pytest.raises(UsageError):
            Decoder(ALPHABET, charset=wrong)


def test_a_closed_list_gives_its_likeliest_entry_by_all_paths(tmp_path: Path) -> None:
    entries = ["Paris", "Pavie", "Parme", "Marseille 漢"]
    decoder = Decoder(ALPHABET, language="none", choices=words_file(tmp_path, *entries))
    log_probs = said("Pavis", (2, "r", 0.4))
    reading = decoder.read([log_probs])[0]
    likelihoods = log_likelihoods(log_probs.numpy(), [ALPHABET.encode(entry) for entry in entries[:3]])
    assert reading.text == "Paris"
    assert reading.score == pytest.approx(max(likelihoods))
    assert {text for text, _ in reading.others} == {"Pavie", "Parme"}
    assert decoder.read([torch.zeros(0, len(ALPHABET))])[0].text == ""
    with pytest.raises(UsageError, match="No line"):
        Decoder(ALPHABET, choices=words_file(tmp_path, "漢"))


def test_readings_name_alternatives_of_texts_and_symbols() -> None:
    reading = Decoder(ALPHABET, decoder="beam", language="none").read([said("chut", (2, "a", 0.4))])[0]
    assert reading.text == "chut"
    assert reading.others[0][0] == "chat"
    assert reading.others[0][1] < reading.score
    assert reading.chars[2].alternatives[0] == ("a", pytest.approx(0.4, abs=0.01))
    assert reading.chars[2].confidence == pytest.approx(0.6, abs=0.01)


def test_the_language_of_a_page_is_found_by_its_lines() -> None:
    decoder = Decoder(ALPHABET, decoder="beam")
    page = [said("there was a garden behind"), said("the house and a tall tree"), said("which he sav", (11, "w", 0.45))]
    assert decoder.read(page)[2].text == "which he saw"
    assert decoder.facts["ngrams"].keys() == {"transcripts-fr", "novels-fr", "transcripts-en", "novels-en"}


def test_the_beam_reads_unsure_lines_alone_and_exactly_as_it_would_read_all() -> None:
    """Spec 7.3: time goes where it helps; a line's text never depends on which other lines were sure."""
    plain = said("la maison est grande")
    doubted = said("la maisou est gramde", (8, "n", 0.45), (17, "n", 0.45))
    page = [plain, doubted, said("le jardin"), doubted[:30], torch.zeros(0, len(ALPHABET))]
    everything = Decoder(ALPHABET, decoder="beam", language="fr", below=1.0).read(page)
    greedy_ = Decoder(ALPHABET).read(page)
    for below in (0.0, 0.9, 0.97, 1.0):
        some = Decoder(ALPHABET, decoder="beam", language="fr", below=below).read(page)
        for mine, sure, searched in zip(some, greedy_, everything, strict=True):
            assert mine == (searched if below == 1 or sure.confidence < below else sure)
    chosen = Decoder(ALPHABET, decoder="beam", language="fr").read(page)
    assert [r.text for r in chosen[:2]] == ["la maison est grande", "la maison est grande"]
    assert greedy_[1].text == "la maisou est gramde"
    assert (chosen[0].others, bool(chosen[1].others)) == ((), True)


def test_sure_lines_of_a_beam_have_the_confidences_of_greedy(tmp_path: Path) -> None:
    maps = {"greedy": flat(0.9).maps["greedy"], "beam": flat(0.3).maps["beam"]}
    fitted = flat().model_copy(update={"maps": maps, "temperature": 1.0})
    sure, unsure = said("sur"), said("doute", (2, "a", 0.45))
    read = Decoder(ALPHABET, decoder="beam", calibration=fitted).read([sure, unsure])
    assert [round(r.chars[0].confidence, 2) for r in read] == [0.9, 0.3]
    words = words_file(tmp_path, "sur")
    assert (
        Decoder(ALPHABET, decoder="beam", lexicon=words, calibration=fitted).read([sure])[0].chars[0].confidence < 0.5
    )


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_odd_lines_are_read_without_a_fuss(decoder: str) -> None:
    made = Decoder(ALPHABET, decoder=decoder, language="fr")
    nothing = torch.zeros(0, len(ALPHABET))
    one = torch.full((1, len(ALPHABET)), -np.log(len(ALPHABET)), dtype=torch.float32)
    readings = made.read([nothing, one, said("a")])
    assert [reading.text for reading in readings][::2] == ["", "a"]
    assert made.read([]) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decoder": "beams"}, "Did you mean 'beam'"),
        ({"decoder": "beam", "language": "de"}, "no language 'de'"),
        ({"width": 0}, "at least 1"),
        ({"decoder": "beam", "below": 97}, "from 0 to 1"),
        ({"decoder": "greedy", "lexicon": Path("x")}, "--decoder beam"),
        ({"decoder": "beam", "correct": True}, "greedy decoder"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Decoder(ALPHABET, **options)


def test_lists_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Élise".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n \n")
    for name in ("latin.txt", "empty.txt", "absent.txt"):
        with pytest.raises(InputError, match=name):
            Decoder(ALPHABET, decoder="beam", lexicon=tmp_path / name)


def flat(sure: float = 0.5) -> Calibration:
    """A calibration that gives every character the same confidence."""
    level = {"x": [0.0], "y": [sure]}
    four = [0.0] * 4
    made = {"centre": four, "spread": [1.0] * 4, "slope": four, "bias": 0.0, "empty": 0.25}
    made |= dict.fromkeys(("char", "word", "line", "exact"), level)
    known = {"model": "m", "weights": "0123456789abcdef", "fitted_on": "x", "maps": {"greedy": made, "beam": made}}
    return Calibration.model_validate({**known, "temperature": 2.0, "language_scale": 0.5, "bonus": 1.0})


def test_a_calibration_replaces_posteriors_everywhere() -> None:
    for decoder in ("greedy", "beam"):
        reading = Decoder(ALPHABET, decoder=decoder, calibration=flat(0.7)).read([said("il est")])[0]
        assert reading.text == "il est"
        assert {char.confidence for char in reading.chars} == {0.7}
        assert [word.confidence for word in reading.words()] == [0.7, 0.7]
        assert (reading.confidence, reading.exact) == (0.7, 0.7)
        blank = Decoder(ALPHABET, decoder=decoder, calibration=flat()).read([said("a")[-1:]])[0]
        assert blank.text == ""
        assert blank.confidence == pytest.approx(0.25 * np.exp(tempered(said("a")[-1:].numpy(), 2.0)[0, 0]))


def test_a_calibration_is_found_by_the_weights_and_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "m.calibration.json"
    path.write_text(as_json(flat()), "utf-8")
    assert read_calibration(path) == flat()
    assert find_calibration("0123456789abcdef", [tmp_path]) == flat()
    assert find_calibration("f" * 16, [tmp_path]) is None
    good = flat().model_dump(mode="json")
    falling = {**good, "maps": {"beam": {**good["maps"]["beam"], "char": {"x": [0, 1], "y": [0.9, 0.1]}}}}
    endless = as_json(flat()).replace("2.0", "1e999")
    for wrong in ("[]", "", "{}", endless, json.dumps({**good, "extra": 1}), json.dumps(falling)):
        path.write_text(wrong, "utf-8")
        with pytest.raises(InputError, match="no calibration"):
            read_calibration(path)


def doubtful(text: str, sure: float = 0.5, line: float = 0.5) -> Reading:
    chars = tuple(Char(c, sure, i, i + 1) for i, c in enumerate(text))
    return Reading(chars, line, -1.0)


@pytest.mark.parametrize(
    ("text", "candidate", "lost", "sure", "passed"),
    [
        ("le chut dort", "le chat dort", 1.0, 0.5, True),
        ("le chut dort", "le chat dort", 2.6, 0.5, False),  # the network finds it too unlikely
        ("le chut dort", "le chat dort", 1.0, 0.9, False),  # nothing in doubt
        ("chut", "chat", 1.0, 0.5, False),  # a quarter of the line
        ("en 1824 il dort", "en 1324 il dort", 0.1, 0.5, False),  # digits stay
        ("en l824 il dort", "en 1824 il dort", 0.1, 0.5, False),  # and none is made
        ("le chat dort", "le chats dort", 1.0, 0.5, True),
        ("le chatt dort", "le chat dort", 1.0, 0.5, True),
        ("le chat dort", "le chat dort", 0.0, 0.5, False),  # no change
    ],
)
def test_the_gate_holds_every_condition(text: str, candidate: str, lost: float, sure: float, passed: bool) -> None:
    assert passes(doubtful(text, sure), tuple(map(ALPHABET.index, candidate)), ALPHABET, lost=lost) == passed


def test_correction_changes_what_is_in_doubt_and_keeps_both_texts() -> None:
    line = said("il a vu le chut dans le jardin", (13, "a", 0.3))
    careful = Decoder(ALPHABET, language="fr", correct=True, calibration=flat(0.7))
    reading = careful.read([line])[0]
    assert (reading.before, reading.text) == ("il a vu le chut dans le jardin", "il a vu le chat dans le jardin")
    sure = Decoder(ALPHABET, language="fr", correct=True, calibration=flat(0.95)).read([line])[0]
    assert (sure.before, sure.text) == ("", "il a vu le chut dans le jardin")
    plain = Decoder(ALPHABET, language="fr", calibration=flat(0.7)).read([line])[0]
    assert (plain.before, plain.text) == ("", "il a vu le chut dans le jardin")


def test_a_wider_beam_with_language_scores_no_worse() -> None:
    """The score of what is found never falls by much when more is kept; by nothing over many lines."""
    from zoo_htr.language import Language

    rng = np.random.default_rng(1)
    mixture = Language("fr").mixture([], ALPHABET, scale=0.5)
    gains = []
    for seed in range(12):
        logs = spoken(rng.integers(60, 90, 20).tolist(), len(ALPHABET), seed, unsure=0.6)
        narrow, wide = (beam_search(logs, mixture, width=width, bonus=1.0)[0].score for width in (4, 32))
        gains.append(wide - narrow)
    assert min(gains) > -1.0
    assert sum(gains) >= 0
