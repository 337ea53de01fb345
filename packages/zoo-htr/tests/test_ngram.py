"""Character n-grams are what the textbook says, stay so in their file, and refuse what is no such file."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from zoo_core.catalog import find
from zoo_core.errors import InputError, UsageError
from zoo_htr.alphabet import Alphabet
from zoo_htr.beam import beam_search
from zoo_htr.ngram import file
from zoo_htr.ngram.estimate import estimate, pseudo_lines
from zoo_htr.ngram.model import UNKNOWN, Mixture, NGram, fitted_weights, symbol_probabilities

ABC = Alphabet(("", " ", "a", "b", "c", "d"))
RNG = random.Random(1)
LINES = ["".join(RNG.choices("aaabbc d", k=RNG.randint(1, 12))).strip() or "a" for _ in range(300)]
LINES = [" ".join(line.split()) for line in LINES]
LANGUAGE = Path(find("htr-jand-student").folder) / "languages"


def model(tmp_path: Path, **options: object) -> NGram:
    path = tmp_path / "m.ngram"
    file.write(path, estimate(LINES, ABC, **options), ABC, {"licence": "none"}, overwrite=True)
    return NGram.read(path)


def reference(order: int, method: str, context: str, symbol: str) -> float:
    """p(symbol | context) straight from the formulas, with strings and dictionaries; '$' is the edge of a line."""
    counts: list[Counter[tuple[str, str]]] = [Counter() for _ in range(order)]
    for line in LINES:
        text = f"${line}$"
        for i in range(1, len(text)):
            for n in range(min(i, order - 1) + 1):
                counts[n][text[i - n : i], text[i]] += 1
    p = 1 / len(ABC)
    for n in range(min(len(context), order - 1) + 1):
        h = context[len(context) - n :]
        table = {c: k for (g, c), k in counts[n].items() if g == h}
        if not table:
            break
        if method == "witten-bell":
            p = (table.get(symbol, 0) + len(table) * p) / (sum(table.values()) + len(table))
            continue
        kinds = counts[n]
        if n < order - 1:
            left = defaultdict(set)
            for g, c in counts[n + 1]:
                left[g[1:], c].add(g[0])
            kinds = Counter({key: k if key[0][:1] == "$" else len(left[key]) for key, k in counts[n].items()})
        seen = [sum(k == m for k in kinds.values()) for m in range(1, 5)]
        d = [0, 0.5, 0.75, 0.75]
        if min(seen):
            y = seen[0] / (seen[0] + 2 * seen[1])
            d = [0.0, *(m - (m + 1) * y * seen[m] / seen[m - 1] for m in (1, 2, 3))]
        d = [min(max(x, 0), m) for m, x in enumerate(d)]
        table = {c: kinds[h, c] for c in table}
        total = sum(table.values())
        own = table.get(symbol, 0)
        p = (own - d[min(own, 3)]) / total + sum(d[min(k, 3)] for k in table.values()) / total * p
    return p


@pytest.mark.parametrize("method", ["kneser-ney", "witten-bell"])
@pytest.mark.parametrize("order", [2, 3, 5])
def test_estimates_are_those_of_the_formulas(tmp_path: Path, method: str, order: int) -> None:
    made = model(tmp_path, order=order, method=method)
    for context in ("$", "$a", "ab", "a", "$ab", "aab a", "dd", ""):
        known = bytes(0 if c == "$" else ABC.symbols.index(c) for c in context)
        for symbol in ("a", "c", "d", " ", "$"):
            index = 0 if symbol == "$" else ABC.symbols.index(symbol)
            wanted = reference(order, method, context, symbol)
            assert made.probabilities(known)[index] == pytest.approx(wanted, rel=1e-3), (context, symbol)


@pytest.mark.parametrize("prune", [0.0, 1.0, 20.0])
def test_probabilities_add_up_to_one_in_every_context(tmp_path: Path, prune: float) -> None:
    made = model(tmp_path, order=5, prune=prune)
    for _ in range(200):
        context = bytes(RNG.choices(range(len(ABC)), k=RNG.randint(0, 7)))
        p = made.probabilities(context)
        assert p.sum() == pytest.approx(1, abs=1e-5)
        assert (p > 0).all()


def test_pruning_makes_it_smaller_and_costs_little(tmp_path: Path) -> None:
    def size_and_bits(prune: float) -> tuple[int, float]:
        made = model(tmp_path, order=5, prune=prune)
        return (tmp_path / "m.ngram").stat().st_size, float(-np.log2(symbol_probabilities(made, LINES)).mean())

    whole, pruned, bare = (size_and_bits(prune) for prune in (0, 1, 1e9))
    assert whole[0] > pruned[0] > bare[0]
    assert whole[1] < pruned[1] < bare[1]


def test_a_line_begins_and_ends_as_lines_do(tmp_path: Path) -> None:
    path = tmp_path / "m.ngram"
    file.write(path, estimate(["ab"] * 50 + ["abc"], ABC, order=4), ABC, {}, overwrite=True)
    mixture = Mixture([NGram.read(path)], [1.0], ABC)
    start, a, b = mixture.start(), *ABC.encode("ab")
    assert mixture.row(start).argmax() == a
    assert mixture.row(mixture.step(mixture.step(start, a), b)).argmax() == 0
    total = sum(mixture.symbol_logs([a, b]))
    assert math.exp(total) > 0.5


def test_symbols_that_the_model_lacks_can_still_be_written(tmp_path: Path) -> None:
    """A network fine-tuned on more symbols keeps its language model."""
    grown = ABC.extended(["x"])
    mixture = Mixture([model(tmp_path)], [1.0], grown, scale=0.5)
    row = mixture.row(mixture.start())
    assert row[len(ABC)] == 0.5 * UNKNOWN
    assert np.exp(row[: len(ABC)] / 0.5).sum() == pytest.approx(1, abs=1e-5)
    assert mixture.step(b"\x00\x02", len(ABC)) == b""
    swapped = Alphabet(("", "b", "a", " ", "d", "c"))
    other = Mixture([model(tmp_path)], [1.0], swapped)
    plain = Mixture([model(tmp_path)], [1.0], ABC)
    assert other.symbol_logs(swapped.encode("ab c")) == plain.symbol_logs(ABC.encode("ab c"))


def test_the_beam_prefers_what_the_language_has(tmp_path: Path) -> None:
    probs = np.full((3, len(ABC)), 1e-4)
    probs[0, 2], probs[1, 0] = 0.99, 0.99
    probs[2, 3], probs[2, 5] = 0.49, 0.5  # b or d: the text has no d after a
    logs = np.log(probs / probs.sum(axis=1, keepdims=True))
    mixture = Mixture([model(tmp_path)], [1.0], ABC)
    assert ABC.decode(beam_search(logs)[0].label) == "ad"
    assert ABC.decode(beam_search(logs, mixture)[0].label) == "ab"


def test_weights_find_the_language() -> None:
    models = [NGram.read(LANGUAGE / f"novels-{language}.ngram") for language in ("fr", "en")]
    fr, en = fitted_weights(models, ["il y avait dans le jardin une", "et je ne sais pas ce qu'il a"])
    assert fr > 0.9
    fr, en = fitted_weights(models, ["there was a garden behind the", "and I do not know what he has"])
    assert en > 0.9
    assert fitted_weights(models, []) == [0.5, 0.5]


def test_pseudo_lines_lose_nothing_and_have_the_length_of_lines() -> None:
    text = [" ".join(RNG.choices(["le", "grand", "chemin", "anticonstitutionnellement"], k=400)), "", "fin"]
    lines = pseudo_lines(text)
    assert " ".join(lines).split() == " ".join(text).split()
    assert max(map(len, lines)) <= 60
    assert len({len(line) for line in lines}) > 15
    assert pseudo_lines(text) == lines


def test_the_file_is_the_same_each_time_and_hashes_its_content(tmp_path: Path) -> None:
    made = [tmp_path / name for name in ("a", "b")]
    for path in made:
        file.write(path, estimate(LINES, ABC), ABC, {"licence": "x"}, overwrite=False)
    assert made[0].read_bytes() == made[1].read_bytes()
    with pytest.raises(InputError, match="exists"):
        file.write(made[0], estimate(LINES, ABC), ABC, {}, overwrite=False)


def damaged(content: bytes, where: str) -> bytes:
    start = 12 + int.from_bytes(content[8:12], "little")
    header = json.loads(content[12:start])
    if where == "cut":
        return content[:-7]
    if where == "flipped":
        return content[:-900] + bytes([content[-900] ^ 1]) + content[-899:]
    if where == "empty":
        return b""
    if where == "other":
        return b"PK\x03\x04" + content[4:]
    if where == "header":
        return content[:12] + b"[" + content[13:]
    if where == "long header":
        return content[:8] + (1 << 31).to_bytes(4, "little") + content[12:]
    if where == "huge":
        header["levels"][-1]["contexts"] = 10**12
    if where == "negative":
        header["levels"][-1]["contexts"] *= -1
    if where == "alphabet":
        header["alphabet"] = ["", "a"]
    if where == "future":
        header["format"] = 2
    head = json.dumps(header).encode()
    return content[:8] + len(head).to_bytes(4, "little") + head + content[start:]


@pytest.mark.parametrize(
    "where",
    ["cut", "flipped", "empty", "other", "header", "long header", "huge", "negative", "alphabet", "future"],
)
def test_what_is_damaged_is_refused_by_name(tmp_path: Path, where: str) -> None:
    path = tmp_path / "m.ngram"
    file.write(path, estimate(LINES, ABC), ABC, {}, overwrite=False)
    path.write_bytes(damaged(path.read_bytes(), where))
    with pytest.raises(InputError, match=r"m\.ngram"):
        file.read(path)


def test_lying_counts_are_refused_even_under_a_right_hash(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "m.ngram"
    file.write(path, estimate(LINES, ABC, order=3), ABC, {}, overwrite=False)
    content = path.read_bytes()
    start = 12 + int.from_bytes(content[8:12], "little")
    header, payload = json.loads(content[12:start]), bytearray(content[start:])
    payload[1] += 1  # one more context than there is grows from the empty one
    header["sha256"] = hashlib.sha256(payload).hexdigest()
    head = json.dumps(header).encode()
    path.write_bytes(content[:8] + len(head).to_bytes(4, "little") + head + payload)
    with pytest.raises(InputError, match="add up"):
        file.read(path)


def test_orders_alphabets_and_texts_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="2 to 8"):
        estimate(LINES, ABC, order=9)
    with pytest.raises(UsageError, match="at most 254"):
        estimate(LINES, Alphabet(("", *map(chr, range(0x4E00, 0x4E00 + 300)))))
    with pytest.raises(UsageError, match="no text"):
        estimate(["", "é"], ABC)


@pytest.mark.parametrize("name", ["transcripts-fr", "transcripts-en", "novels-fr", "novels-en"])
def test_what_is_shipped_fits_the_network_and_states_its_licence(name: str) -> None:
    made = NGram.read(LANGUAGE / f"{name}.ngram")
    assert list(made.alphabet.symbols) == find("htr-jand-student").manifest.config["alphabet"]
    assert made.header["licence"]
    assert made.header["sources"][0]["lines"] > 1000
    share_alike = "CC-BY-SA" in made.header["licence"]
    assert share_alike == ("hooker" in made.header["corpora"])  # the rows of that corpus alone are share-alike
    assert sum(path.stat().st_size for path in LANGUAGE.glob("*.ngram")) < 6 * 2**20


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zoo_htr.ngram", *arguments], capture_output=True, text=True, env={**os.environ}
    )


def test_the_commands_build_and_measure(tmp_path: Path) -> None:
    (tmp_path / "fr.txt").write_text("Le chat dort dans le jardin.\n" * 30, "utf-8")
    target = tmp_path / "fr.ngram"
    done = run("build", str(tmp_path / "fr.txt"), "-o", str(target), "--licence", "CC0-1.0", "--order", "4")
    assert done.returncode == 0, done.stderr
    assert NGram.read(target).header["licence"] == "CC0-1.0"
    done = run("measure", str(target), "--data", str(tmp_path / "fr.txt"), "--format", "json")
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["corpus"] == "all"
    assert 0 < row["bits"]["mixture"] < 1
    done = run("build", str(tmp_path / "fr.txt"), "-o", str(target), "--licence", "CC0-1.0")
    assert done.returncode == 3
    assert "exists already" in done.stderr
