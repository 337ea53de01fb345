"""Which lines a run sees, and what happens to them."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from zoo_core.errors import InputError
from zoo_htr import augment
from zoo_htr.alphabet import Alphabet
from zoo_htr.augment import NAMES, UNIFORMS, Choice, draw, render, still
from zoo_htr.data import WIDEST, Line, LineStore, fingerprint, frames_needed, read_lines, scribbles, usable
from zoo_htr.schedule import CANVASES, POOL, Phases, Schedule, difficulty

CPU = torch.device("cpu")
ALPHABET = Alphabet(("", *"abcdefgh "))
NO_PHASES = Phases(synthetic=0, mixed=0, rest=0, curriculum=False)


def line(text: str, width: int, **keys: Any) -> Line:
    pixels = np.random.default_rng(width).integers(150, 250, (64, width)).astype(np.uint8)
    return Line(f"{text}-{width}", text, pixels, **keys)


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def schedule(real: list[Line], synthetic: list[Line] = (), replay: list[Line] = (), **keys: Any) -> Schedule:  # type: ignore[assignment]
    store = LineStore([*real, *synthetic, *replay], ALPHABET, CPU)
    given = {"phases": NO_PHASES, "steps": 1000, "batch": 8, "seed": 3, "augment": True, **keys}
    return Schedule(store, real, list(synthetic), list(replay), **given)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_pack_and_a_folder_of_pairs_give_the_same_lines(tmp_path: Path) -> None:
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 30 + i)).astype(np.uint8) for i in range(12)]
    texts = [f"e\u0301  a{'b' * i} " for i in range(12)]
    (tmp_path / "pairs").mkdir()
    for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        (tmp_path / f"pairs/{i}.png").write_bytes(encoded(picture))
        (tmp_path / f"pairs/{i}.gt.txt").write_text(text, encoding="utf-8")
    names = [str(i) for i in range(12)]
    table = pyarrow.table({"name": names, "image": [encoded(p) for p in pictures], "text": texts})
    pyarrow.parquet.write_table(table, tmp_path / "pack.parquet")
    for split in ("train", "val"):
        pack, pairs = (read_lines([tmp_path / name], split) for name in ("pack.parquet", "pairs"))
        assert {(a.text, a.pixels.tobytes()) for a in pack} == {(a.text, a.pixels.tobytes()) for a in pairs}
    held_out = read_lines([tmp_path / "pairs"], "val")
    assert len(held_out) == 1
    assert held_out[0].text in {f"é a{'b' * i}" for i in range(12)}


def test_a_split_column_and_the_corpus_are_kept(tmp_path: Path) -> None:
    columns = {"text": ["a", "b", "c"], "split": ["train", "val", "train"], "corpus": ["x", "x", "y"]}
    pictures = [encoded(np.full((32, 40), 200, np.uint8), "webp")] * 3
    pyarrow.parquet.write_table(pyarrow.table({"image": pictures, **columns}), tmp_path / "p.parquet")
    lines = read_lines([tmp_path / "p.parquet"], "train")
    assert [(one.text, one.corpus) for one in lines] == [("a", "x"), ("c", "y")]
    assert lines[0].pixels.shape == (64, 80)
    with pytest.raises(InputError, match="no line of split 'test'"):
        read_lines([tmp_path / "p.parquet"], "test")


@pytest.mark.parametrize("fault", ["no picture", "no image", "two pictures"])
def test_a_damaged_folder_says_which_file(tmp_path: Path, fault: str) -> None:
    (tmp_path / "a.gt.txt").write_text("abc")
    if fault != "no picture":
        (tmp_path / "a.png").write_bytes(b"no image")
    if fault == "two pictures":
        (tmp_path / "a.jpg").write_bytes(b"another")
    # a folder of one line: it is the split val
    with pytest.raises(InputError, match=r"a\.gt\.txt has \d pictures|, a: not a readable image"):
        read_lines([tmp_path], "val")


def test_lines_that_ctc_cannot_learn_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    good = line("ab", 40)
    bad = [
        line("", 40),
        line("abcdefgh", 24),
        line("aab", 12),
        line("a", WIDEST + 4),
        line("xyz", 99),
        line("a" * 161, 2000),
    ]
    with caplog.at_level(logging.WARNING):
        assert usable([good, *bad], ALPHABET) == [good]
    said = caplog.text
    assert all(one.name in said for one in bad)
    assert "more characters than frames" in said
    with pytest.raises(InputError):
        usable(bad, ALPHABET)


@pytest.mark.parametrize(("label", "frames"), [([], 0), ([1], 1), ([1, 1], 3), ([1, 2, 2, 2, 1], 7)])
def test_equal_neighbours_need_a_frame_between(label: list[int], frames: int) -> None:
    assert frames_needed(label) == frames


def test_the_fingerprint_changes_with_pixels_and_texts() -> None:
    lines = [line("ab", 40), line("cd", 44)]
    touched = lines[1].pixels.copy()
    touched[3, 3] ^= 1
    variants = [lines, lines[::-1], [lines[0], line("ce", 44)], [lines[0], Line(lines[1].name, "cd", touched)]]
    assert len({fingerprint(variant) for variant in variants}) == 4


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_all_uniform_numbers_are_used() -> None:
    widths, needed = torch.tensor([100] * 64), torch.tensor([5] * 64)
    uniforms = torch.rand(64, UNIFORMS, generator=torch.Generator().manual_seed(0))
    before = draw(widths, needed, uniforms)
    assert before.shape == (64, len(NAMES))
    assert before.isfinite().all()
    changed = [
        not torch.equal(before, draw(widths, needed, uniforms.index_fill(1, torch.tensor(i), 0.01)))
        for i in range(UNIFORMS)
    ]
    assert all(changed)
    with pytest.raises(StopIteration):
        draw(widths, needed, uniforms[:, :-1])


def test_no_line_gets_narrower_than_its_label_needs_or_wider_than_the_canvases() -> None:
    generator = torch.Generator().manual_seed(1)
    widths = torch.randint(20, WIDEST, (4000,), generator=generator)
    needed = (widths / 4 * torch.rand(4000, generator=generator)).long()
    parameters = draw(widths, needed, torch.rand(4000, UNIFORMS, generator=generator))
    new = parameters[:, NAMES.index("width")].long()
    assert ((new + 3) // 4 >= needed).all()
    assert new.max() <= WIDEST == CANVASES[-1]
    stretch = (new / widths)[widths > 200]
    assert stretch.min() < 0.9 < 1.1 < stretch.max()


def test_what_is_still_is_the_line_itself() -> None:
    lines = scribbles(5, ALPHABET, seed=2)
    store = LineStore(lines, ALPHABET, CPU)
    choice = Choice(torch.arange(5), torch.full((5,), -1), torch.zeros(5, dtype=torch.long), torch.arange(5))
    made = render(store, choice, still(store.widths_cpu), 160)
    for one, grey, width, label, length in zip(lines, *made, strict=True):
        assert np.array_equal(grey[:, :width].numpy(), one.pixels)
        assert ALPHABET.decode(label[:length].tolist()) == one.text


def test_geometry_moves_ink_as_it_says() -> None:
    pixels = np.full((64, 100), 200, np.uint8)
    pixels[30:34, 48:52] = 20
    store = LineStore([Line("dot", "a", pixels)], ALPHABET, CPU)
    choice = Choice(*(torch.tensor([i]) for i in (0, -1, 0, 0)))

    def centre(**changes: float) -> tuple[float, float]:
        parameters = still(store.widths_cpu)
        for name, value in changes.items():
            parameters[:, NAMES.index(name)] = value
        ink = 200 - render(store, choice, parameters, 256).grey[0].double()
        weight = ink.clamp_min(0)
        row = (weight.sum(1) * torch.arange(64)).sum() / weight.sum()
        column = (weight.sum(0) * torch.arange(256)).sum() / weight.sum()
        return float(row), float(column)

    assert centre() == pytest.approx((31.5, 49.5), abs=0.02)
    assert centre(shift_y=3.0) == pytest.approx((34.5, 49.5), abs=0.05)
    assert centre(left=7.0, width=107.0) == pytest.approx((31.5, 56.5), abs=0.05)
    # twice as wide: the middle of column 49.5 lies at 2 * 50 - 0.5
    assert centre(core=200.0, width=200.0) == pytest.approx((31.5, 99.5), abs=0.1)
    assert centre(slope=0.02)[0] == pytest.approx(31.5, abs=0.05)


def test_joined_lines_stand_behind_each_other_with_a_blank_between_their_texts() -> None:
    first, second = line("abc", 60), line("de", 40)
    store = LineStore([first, second, line("abcdefgh", 90)], ALPHABET, CPU)
    choice = Choice(torch.tensor([0, 1]), torch.tensor([1, -1]), torch.tensor([15, 15]), torch.tensor([0, 0]))
    made = render(store, choice, still(torch.tensor([60 + 15 + 40, 40])), 256)
    assert [ALPHABET.decode(row[:n].tolist()) for row, n in zip(made.labels, made.lengths, strict=True)] == [
        "abc de",
        "de",
    ]
    assert made.widths.tolist() == [115, 40]
    paper = float(store.paper[0])
    assert np.array_equal(made.grey[0, :, :60].numpy(), first.pixels)
    assert (made.grey[0, :, 60:75] == paper).all()
    behind = paper - (float(store.paper[1]) - second.pixels.astype(float))
    assert np.array_equal(made.grey[0, :, 75:115].numpy(), behind.clip(0, 255))


def test_every_change_shows_and_leaves_whole_grey_levels() -> None:
    lines = [line("abc", 120), line("de", 100)]
    store = LineStore(lines, ALPHABET, CPU)
    choice = Choice(*(torch.tensor([i]) for i in (0, -1, 0, 1)))
    plain = still(store.widths_cpu[:1])
    torch.manual_seed(0)
    before = render(store, choice, plain, 160).grey
    strong = {
        "shear": 0.3, "slope": 0.02, "scale_y": 0.9, "shift_y": 3, "sine": 3, "elastic": 1.5, "thickness": 0.9,
        "blur": 1.2, "contrast": 0.6, "texture": 10, "gradient": 30, "gamma": 1.5, "noise": 10, "rule_tone": 40,
        "other": 0.3, "span0_width": 20,
    }  # fmt: skip
    for name, value in strong.items():
        parameters = plain.clone()
        parameters[:, NAMES.index(name)] = value
        torch.manual_seed(0)
        after = render(store, choice, parameters, 160).grey
        assert not torch.equal(before[..., :120], after[..., :120]), name
        assert torch.equal(after, after.round().clamp(0, 255)), name
    assert set(strong) | {"width", "core", "left", "sine_length", "sine_phase", "rule_period", "rule_phase"} < set(
        augment.NAMES
    )


# -- which lines -------------------------------------------------------------------------------------------------------


def test_batches_depend_on_seed_and_step_alone() -> None:
    lines = scribbles(40, ALPHABET, seed=1)
    one, other = schedule(lines), schedule(lines)
    backwards = [other.draw(step) for step in (POOL + 1, 2, 1)][::-1]
    for step, batch in zip((1, 2, POOL + 1), backwards, strict=True):
        again = one.draw(step)
        assert batch.step == step
        assert torch.equal(batch.choice.line, again.choice.line)
        assert torch.equal(batch.parameters, again.parameters)
    assert not torch.equal(one.draw(1).choice.line, schedule(lines, seed=4).draw(1).choice.line)


def test_every_line_fits_its_canvas_and_batches_are_of_like_widths() -> None:
    lines = [line("abc", width, corpus="c", writer="w") for width in range(30, 900, 7)]
    drawn = schedule(lines)
    wasted, total = 0, 0
    for step in range(POOL):
        batch = drawn.draw(step)
        canvas = batch.canvas.shape[1]
        widths = batch.parameters[:, 0]
        before = drawn.store.widths_cpu[batch.choice.line]
        assert canvas in CANVASES
        assert max(int(widths.max()), int(before.max())) <= canvas
        wasted, total = wasted + int((canvas - widths).sum()), total + canvas * len(widths)
    assert wasted / total < 0.3
    assert len({drawn.draw(step).canvas.shape[1] for step in range(5)}) > 1, "the batches of a pool are shuffled"


def test_corpora_are_balanced_by_the_root_of_their_size() -> None:
    lines = [line("ab", 40 + i % 9, corpus="large") for i in range(400)] + [
        line("ab", 40, corpus="small") for _ in range(25)
    ]
    drawn = schedule(lines, batch=32)
    chosen = torch.cat([drawn.draw(step).choice.line for step in range(2 * POOL)])
    assert float((chosen < 400).float().mean()) == pytest.approx(20 / 25, abs=0.03)


def test_phases_go_from_rendered_lines_to_a_mix_to_real_ones() -> None:
    phases = Phases(synthetic=0.2, mixed=0.3, rest=0.1, curriculum=True)
    shares = [phases.synthetic_share(x) for x in (0, 0.19, 0.2, 0.35, 0.499, 0.5, 1)]
    assert shares == pytest.approx([1, 1, 0.5, 0.325, 0.151, 0.1, 0.1], abs=1e-3)
    # the pacing of the curriculum, from its formula
    paces = [phases.easiest(x) for x in (0.2, 0.29, 0.2 + 0.3 * 0.6, 0.5, 1)]
    assert paces == pytest.approx([0.2, (0.04 + 0.96 * 0.3 / 0.6) ** 0.5, 1, 1, 1], abs=1e-6)
    real = [line("ab" * (1 + i), 60 + 12 * i, corpus="r") for i in range(20)]
    rendered = [line("cd", 50, corpus="s") for _ in range(10)]
    drawn = schedule(real, rendered, phases=phases, steps=20 * POOL, batch=16)

    def real_share(step: int) -> float:
        return float(torch.cat([drawn.draw(step + i).choice.line < 20 for i in range(POOL)]).float().mean())

    assert real_share(0) == 0
    assert real_share(4 * POOL) == pytest.approx(0.5, abs=0.06)
    assert real_share(15 * POOL) == pytest.approx(0.9, abs=0.04)
    seen = torch.cat([drawn.draw(4 * POOL + i).choice.line for i in range(POOL)])
    # the easiest fifth: four lines, the shortest texts
    assert set(seen[seen < 20].tolist()) == set(np.argsort(difficulty(real))[:4].tolist()) == {0, 1, 2, 3}


def test_replay_is_a_share_of_the_real_lines() -> None:
    real, old = [line("ab", 40, corpus="mine")] * 10, [line("cd", 50, corpus="theirs")] * 300
    phases = Phases(synthetic=0, mixed=0, rest=0, curriculum=False, replay=0.3)
    drawn = schedule(real, [], old, phases=phases, batch=32)
    chosen = torch.cat([drawn.draw(step).choice.line for step in range(POOL)])
    assert float((chosen >= 10).float().mean()) == pytest.approx(0.3, abs=0.04)


def test_only_lines_of_one_writer_are_joined() -> None:
    lines = [line("ab", 40 + i, corpus="c", writer=f"w{i % 3}") for i in range(30)] + [
        line("abcdefgh" * 4, 400, corpus="c")
    ]
    drawn = schedule(lines, batch=32)
    joined = 0
    for step in range(POOL):
        choice = drawn.draw(step).choice
        for first, second in zip(choice.line.tolist(), choice.second.tolist(), strict=True):
            if second >= 0:
                joined += 1
                assert lines[first].writer == lines[second].writer != ""
                assert first != second
    assert 0.05 < joined / (32 * POOL) < 0.12
    assert "ab-40" in " ".join(drawn.describe(step) for step in range(3))
