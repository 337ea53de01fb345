"""Synthetic lines: fonts come from a registry and are checked, lines are functions of (seed, number)."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from zoo_core.errors import InputError, UsageError, ZooError
from zoo_htr import fonts, synth
from zoo_htr.data import read_lines
from zoo_htr.fonts import Font, cached, fill, registry
from zoo_htr.synth import LONGEST, Text, rows

LETTERS = "abcdefghijklmnopqrstuvwxyzé', .-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def woff(characters: str) -> bytes:
    """A font whose letters are bars of different heights."""
    names = [".notdef", *(f"u{ord(char):04X}" for char in characters)]
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        if name != "u0020":
            pen.moveTo((60, 0))
            for corner in ((60, 200 + 9 * number), (340, 200 + 9 * number), (340, 0)):
                pen.lineTo(corner)
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(char): f"u{ord(char):04X}" for char in characters})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (400, 60)))
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupOS2()
    builder.setupPost()
    builder.setupNameTable({"familyName": "Bars", "styleName": "Regular"})
    builder.font.flavor = "woff"
    builder.save(target := io.BytesIO())
    return target.getvalue()


def archive(font: str, characters: str) -> bytes:
    data = woff(characters)
    with tarfile.open(fileobj=(target := io.BytesIO()), mode="w:gz") as packed:
        member = tarfile.TarInfo(f"package/files/{font}-latin-400-normal.woff")
        member.size = len(data)
        packed.addfile(member, io.BytesIO(data))
    return target.getvalue()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A registry on the loopback with two fonts, which are all that the table names."""
    table = []
    for name, characters, held_out in (("bars", LETTERS, False), ("rods", LETTERS.replace("é", ""), True)):
        packed = archive(name, characters)
        folder = tmp_path / f"shop/@fontsource/{name}/-"
        folder.mkdir(parents=True)
        (folder / f"{name}-1.0.0.tgz").write_bytes(packed)
        table.append(Font(name, "1.0.0", "OFL-1.1", hashlib.sha256(packed).hexdigest(), held_out, joined=held_out))
    monkeypatch.setattr(fonts, "fonts", lambda: table)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "shop"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_table_pins_every_font() -> None:
    table = fonts.fonts()
    assert len({font.name for font in table}) == len(table) == 32
    assert all(re.fullmatch(r"[0-9a-f]{64}", font.sha256) for font in table)
    assert {font.licence for font in table} == {"OFL-1.1", "Apache-2.0"}
    assert sum(font.held_out for font in table) == 4


def test_fonts_are_fetched_once_and_keep_their_characters(shop: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert fill(cache, shop) == 2
    assert fill(cache, "http://127.0.0.1:9/") == 0, "nothing is asked for that is there"
    bars, rods = cached(cache)
    assert bars.characters == set(LETTERS)
    assert "é" not in rods.characters
    assert (bars.font.held_out, rods.font.held_out) == (False, True)


def test_other_bytes_than_those_of_the_table_are_refused(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [replace(font, sha256="0" * 64) for font in fonts.fonts()]
    monkeypatch.setattr(fonts, "fonts", lambda: table)
    with pytest.raises(ZooError, match="sha256 differs"):
        fill(tmp_path / "cache", shop)
    with pytest.raises(InputError, match=r"python -m zoo_htr\.fonts"):
        cached(tmp_path / "cache")


def test_a_registry_that_is_not_there_is_said(shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZooError, match="cannot be fetched"):
        fill(tmp_path / "cache", "http://127.0.0.1:9/")
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
    with pytest.raises(UsageError, match="--registry"):
        registry()
    done = CliRunner().invoke(fonts.main, ["--registry", shop, "--cache", str(tmp_path / "cache")])
    assert done.output == f"2 fonts in {tmp_path / 'cache'}, 2 of them fetched now\n"


def test_a_pack_of_lines_trains_and_a_line_depends_on_seed_and_number_alone(shop: str, tmp_path: Path) -> None:
    cache, texts = tmp_path / "cache", tmp_path / "fr.txt"
    fill(cache, shop)
    texts.write_text("Le petit été\u2019s chat dort dans la grande maison, loin de tout. Anne dort aussi.\n" * 5)
    command = [
        str(tmp_path / "lines.parquet"),
        "--lines",
        "40",
        "--seed",
        "2",
        "--text",
        str(texts),
        "--fonts",
        str(cache),
    ]
    done = CliRunner().invoke(synth.main, command)
    assert done.exit_code == 0, done.output
    assert re.match(r"40 lines, \d\.\d MB", done.output)
    again = CliRunner().invoke(synth.main, command)
    assert again.exit_code == 1
    assert "exists already" in again.output
    train, val = (read_lines([tmp_path / "lines.parquet"], split) for split in ("train", "val"))
    assert {line.writer for line in train} == {"bars"}
    assert {line.writer for line in val} == {"rods"}
    for line in (*train, *val):
        assert 8 <= len(line.text) <= LONGEST
        assert set(line.text) <= set(LETTERS) - ({"é"} if line.writer == "rods" else set())
        assert line.pixels.shape[0] == 64
        assert line.corpus == "synthetic-fr"
    made = rows([Text.read(texts)], cached(cache), numbers=range(3), seed=2, alphabet=LETTERS)
    by_name = {f"lines.parquet:{row['name']}": row for row in made}
    assert len(by_name) == 3
    for line in (*train, *val):
        if line.name in by_name:
            picture = Image.open(io.BytesIO(by_name[line.name]["image"])).convert("L")
            assert np.array_equal(np.asarray(picture), line.pixels)


def test_lines_are_the_same_for_any_number_of_processes(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "cache", shop)
    (tmp_path / "fr.txt").write_text("Le petit chat dort dans la grande maison, loin de tout. Anne dort aussi.\n" * 5)
    texts, faces = [Text.read(tmp_path / "fr.txt")], cached(tmp_path / "cache")
    monkeypatch.setattr(synth, "PART", 3)
    one, two = (synth.drawn(texts, faces, count=8, seed=5, alphabet=LETTERS, jobs=jobs) for jobs in (1, 2))
    assert len(one) > 4
    assert one == two


def test_ink_stands_where_letters_are(shop: str, tmp_path: Path) -> None:
    import random

    fill(tmp_path / "cache", shop)
    bars, _ = cached(tmp_path / "cache")
    pixels = synth.written("zzzz aaaa", bars, random.Random(3))
    dark = pixels.astype(float).max() - pixels
    # bars of z are taller than those of a: more ink in the left half
    half = pixels.shape[1] // 2
    assert dark[:, :half].sum() > 1.1 * dark[:, half:].sum() > 0


def test_texts_without_paragraphs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fr.txt").write_text("two words\n\n")
    with pytest.raises(InputError, match="no paragraphs"):
        Text.read(tmp_path / "fr.txt")
