"""One bad file is one sentence with its name and a remedy; the others are written, and nothing is lost.

The table is section 8 of the package's specification.
"""

import importlib.util
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from zoo_core.errors import InputError, ZooError
from zoo_core.predict import Outcome, run
from zoo_sr.predict import SRPredictor


def _sibling(name: str) -> ModuleType:
    # the tests are no package (import-mode importlib), so a module beside them is loaded by its path
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


copying = _sibling("copying_network")


def predictor(**options: Any) -> SRPredictor:
    made: SRPredictor = copying.predictor_of(copying.copying_network(), **options)
    return made


def picture(path: Path, width: int = 12, height: int = 10, *, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    pil.fromarray(pixels).save(path)
    return path


def png_header(width: int, height: int) -> bytes:
    """A small PNG that promises that size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 3), (5000, 3), (3, 5000)])
def test_thin_and_tiny_pictures_are_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    (outcome,) = run(predictor(), [picture(tmp_path / "a.png", *size)], out=tmp_path / "out")
    with pil.open(outcome.written[0]) as result:
        assert result.size == (4 * size[0], 4 * size[1])


def truncated(path: Path) -> None:
    data = picture(path, 200, 200).read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "zero-byte": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("not a picture"), "its content is text"),
    "truncated": (truncated, "cannot be decoded as png"),
    "bomb": (lambda path: path.write_bytes(png_header(60_000, 60_000)), "would become 57,600,000,000 pixels"),
    "100 megapixels": (
        lambda path: path.write_bytes(png_header(10_000, 10_000)),
        "Raise it with --max-pixels 1600000000",
    ),
    "promises more than it holds": (lambda path: path.write_bytes(png_header(300, 300)), "cannot be decoded as png"),
    "gone": (lambda path: None, "does not exist"),
    "dangling link": (lambda path: path.symlink_to("nowhere.png"), "does not exist"),
    "empty folder": (lambda path: path.mkdir(), "holds no file of a known kind"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_does_not_stop_the_others(tmp_path: Path, kind: str) -> None:
    make, says = BAD[kind]
    bad = tmp_path / "bäd name.png"
    make(bad)
    first, last = picture(tmp_path / "1.png"), picture(tmp_path / "2.png")
    outcomes = list(run(predictor(), [first, bad, last], out=tmp_path / "out"))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    error = outcomes[1].error
    assert isinstance(error, InputError)
    assert "bäd name.png" in error.message
    assert says in str(error)
    assert error.remedy
    assert "\n" not in str(error)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1_imdn-x4.png", "2_imdn-x4.png"]


def test_the_limit_can_be_raised_and_counts_all_frames(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", 20, 20)
    with pytest.raises(InputError, match=r"--max-pixels 6400"):
        predictor(max_pixels=6399).predict(path)
    assert predictor(max_pixels=6400).predict(path).pixels.shape == (80, 80, 3)
    frames = [pil.new("RGB", (20, 20), (i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "b.webp", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(InputError, match=r"--max-pixels 19200"):
        predictor(max_pixels=6400, all_frames=True).predict(tmp_path / "b.webp")


def test_a_wrong_extension_is_noted_and_the_content_counts(tmp_path: Path) -> None:
    pil.new("RGB", (8, 8)).save(tmp_path / "a.png", "JPEG")
    (outcome,) = run(predictor(), [tmp_path / "a.png"], out=tmp_path / "out")
    assert outcome.written[0].name == "a_imdn-x4.jpg"
    assert outcome.result is not None
    assert any("its content is jpg" in note for note in outcome.result.as_dict()["notes"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    path.chmod(0)
    (outcome,) = run(predictor(), [path], out=tmp_path / "out")
    assert "cannot be read" in str(outcome.error)


def test_an_unwritable_folder_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ZooError, match=r"The folder .*out cannot be made .*-o"):
        list(run(predictor(), [picture(tmp_path / "a.png")], out=tmp_path / "out"))


def one(made: SRPredictor, *inputs: Path, out: Path, **extra: Any) -> Outcome:
    (outcome,) = run(made, inputs, out=out, **extra)
    return outcome


def test_an_existing_result_is_kept_unless_told(tmp_path: Path) -> None:
    source, out = picture(tmp_path / "a.png"), tmp_path / "out"
    target = picture(out / "a_imdn-x4.png", 1, 1)
    before = target.read_bytes()
    refused = one(predictor(), source, out=out)
    assert "exists already. Give --overwrite to replace it or --skip-existing to keep it." in str(refused.error)
    assert one(predictor(), source, out=out, skip_existing=True).skipped
    assert target.read_bytes() == before
    assert one(predictor(), source, out=out, overwrite=True).error is None
    assert target.read_bytes() != before


def test_an_input_is_never_written_over(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    before = source.read_bytes()
    outcome = one(predictor(suffix=""), source, out=tmp_path, overwrite=True)
    assert "over an input" in str(outcome.error)
    assert source.read_bytes() == before


def test_inputs_of_one_name_get_files_of_their_own(tmp_path: Path) -> None:
    inputs = [
        picture(tmp_path / "a.png", seed=1),
        picture(tmp_path / "a.bmp", seed=2),
        picture(tmp_path / "b/a.png", seed=3),
    ]
    outcomes = list(run(predictor(), inputs, out=tmp_path / "out"))
    names = [outcome.written[0].name for outcome in outcomes]
    assert len(set(names)) == 3
    for source, outcome in zip(inputs, outcomes, strict=True):
        with pil.open(source) as small, pil.open(outcome.written[0]) as large:
            np.testing.assert_array_equal(np.asarray(small), np.asarray(large)[::4, ::4])


def test_a_second_run_over_its_own_folder_enlarges_nothing_twice(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    list(run(predictor(compare=True), [tmp_path], out=tmp_path))
    outcomes = list(run(predictor(compare=True), [tmp_path], out=tmp_path, skip_existing=True))
    assert [(outcome.source.stem, outcome.skipped) for outcome in outcomes] == [("a", True)]


def test_a_result_too_large_for_its_format_names_one_that_holds_it(tmp_path: Path) -> None:
    outcome = one(predictor(image_format="webp"), picture(tmp_path / "a.png", 4200, 2), out=tmp_path / "out")
    assert "webp ends at 16383 a side. Choose png or tiff." in str(outcome.error)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((4, 4, 5), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 2.0), "outside 0 to 1"),
        (np.full((4, 4, 3), np.nan), "outside 0 to 1"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        predictor().predict(given)
