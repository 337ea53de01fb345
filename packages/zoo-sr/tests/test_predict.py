"""Any picture is enlarged as what it is: its depth, colours, transparency, frames and metadata stay.

Most tests use a network that copies pixels, so that the expected result is exact.
"""

import importlib.util
import io
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as pil
from PIL import ImageCms

from zoo_core.catalog import models
from zoo_core.errors import InputError, UsageError, ZooError
from zoo_core.options import parse_options
from zoo_core.predict import Result, run
from zoo_sr.alpha import bleed
from zoo_sr.imdn import IMDN, IMDN_AS, IMDN_RTC, IMDN_RTE
from zoo_sr.options import SROptions
from zoo_sr.predict import SRPredictor
from zoo_sr.resize import resize


def _sibling(name: str) -> ModuleType:
    # the tests are no package (import-mode importlib), so a module beside them is loaded by its path
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


copying = _sibling("copying_network")


def predictor(model: str = "imdn-x4", precision: str = "fp32", **options: Any) -> SRPredictor:
    made: SRPredictor = copying.predictor_of(copying.copying_network(), model, precision, **options)
    return made


def noise(*shape: int, dtype: Any = np.uint8) -> Any:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def repeated(pixels: Any, scale: int = 4) -> Any:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_value_passes_through_unchanged(dtype: Any, channels: int) -> None:
    pixels = noise(20, 30, channels, dtype=dtype)
    result = predictor().predict(pixels)
    assert result.pixels.dtype == dtype
    np.testing.assert_array_equal(result.pixels, repeated(pixels))
    assert isinstance(result, Result)
    assert result.as_dict()["size"] == [120, 80]


def test_floats_stay_floats() -> None:
    pixels = noise(9, 9, 3).astype(np.float32) / 255
    np.testing.assert_allclose(predictor().predict(pixels).pixels, repeated(pixels), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
def test_every_kind_of_picture_goes_to_every_format(tmp_path: Path, mode: str, kind: str) -> None:
    source = (
        pil.fromarray(noise(12, 10, dtype=np.uint16)) if mode == "I;16" else pil.fromarray(noise(12, 10, 4), "RGBA")
    )
    if mode not in {"I;16", "RGBA"}:
        source = source.convert("RGB").convert(mode) if mode == "CMYK" else source.convert(mode)
    source.save(tmp_path / "a.tif")
    (outcome,) = run(predictor(image_format=kind), [tmp_path / "a.tif"], out=tmp_path / "out")
    assert outcome.error is None
    with pil.open(outcome.written[0]) as picture:
        assert picture.size == (40, 48)
        picture.load()


def test_same_format_and_the_model_in_the_name(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.webp", "d.tif", "e.bmp", "f.gif"):
        pil.fromarray(noise(8, 8, 3)).save(tmp_path / name)
    outcomes = list(run(predictor(), [tmp_path], out=tmp_path / "out"))
    assert [o.written[0].name for o in outcomes] == [
        "a_imdn-x4.jpg", "b_imdn-x4.png", "c_imdn-x4.webp", "d_imdn-x4.tif", "e_imdn-x4.png", "f_imdn-x4.png",
    ]  # fmt: skip
    notes = [outcome.result.as_dict()["notes"] for outcome in outcomes if outcome.result]
    assert any("written as png" in note for note in notes[4])


def test_smooth_alpha_goes_through_the_network_and_hard_alpha_stays_hard() -> None:
    smooth = np.dstack([noise(10, 10, 3), np.linspace(1, 254, 100).reshape(10, 10).astype(np.uint8)])
    np.testing.assert_array_equal(predictor().predict(smooth).pixels, repeated(smooth))
    hard = smooth.copy()
    hard[..., 3] = np.where(smooth[..., 3] > 128, 255, 0)
    alpha = predictor().predict(hard).pixels[..., 3]
    assert set(np.unique(alpha)) == {0, 255}
    assert predictor(alpha="drop").predict(hard).pixels.shape == (40, 40, 3)
    bicubic = predictor(alpha="bicubic").predict(hard).pixels[..., 3]
    np.testing.assert_array_equal(bicubic, resize(hard[..., 3], size=(40, 40)))


def test_no_dark_fringe_from_what_is_not_seen() -> None:
    """Editors leave black under full transparency; it must not bleed into a white shape."""
    pixels, alpha = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    pixels[8:20, 8:20], alpha[8:20, 8:20] = 250, 255
    assert bleed(pixels, alpha).min() == 250
    torch.manual_seed(1)
    network = IMDN(channels=16, blocks=1).eval()
    shape = copying.predictor_of(network).predict(np.dstack([pixels, alpha])).pixels[..., :3]
    white = copying.predictor_of(network).predict(np.full((32, 32, 3), 250, np.uint8)).pixels
    np.testing.assert_array_equal(shape, white)


@pytest.mark.parametrize(("options", "size"), [
    ({"scale": 2.5}, (75, 50)), ({"width": 70}, (70, 47)), ({"height": 33}, (50, 33)),
    ({"width": 31, "height": 80}, (31, 80)), ({"scale": 1}, (30, 20)),
])  # fmt: skip
def test_any_size_up_to_the_models(options: dict[str, Any], size: tuple[int, int]) -> None:
    pixels = noise(20, 30, 3)
    result = predictor(**options).predict(pixels)
    np.testing.assert_array_equal(result.pixels, resize(repeated(pixels), size=size[::-1]))
    assert any("then shrunk" in note for note in result.notes)


def test_a_factor_beyond_the_model_names_the_one_that_can() -> None:
    with pytest.raises(UsageError, match=r"enlarges 2 times, not 2.5 times. Use imdn-x3 instead"):
        copying.predictor_of(copying.copying_network(2), "imdn-x2", scale=2.5)
    with pytest.raises(UsageError, match="No model here goes that far"):
        predictor(scale=8)
    with pytest.raises(InputError, match="makes at most 40 x 40 of it, not 41 x 41"):
        predictor(width=41).predict(noise(10, 10, 3))
    with pytest.raises(UsageError, match="two sizes"):
        predictor(width=41, scale=2)


def test_options_are_checked_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"no option 'self_ensamble'. Did you mean 'self_ensemble'?"):
        parse_options(SROptions, {"self_ensamble": True}, model="imdn-x4")
    with pytest.raises(UsageError, match=r"--quality: .*less than or equal to 100.*given: 101"):
        parse_options(SROptions, {"quality": 101}, model="imdn-x4")
    with pytest.raises(UsageError, match="--suffix: a suffix is a part of a file name"):
        parse_options(SROptions, {"suffix": "../x"}, model="imdn-x4")


def test_every_option_is_described_and_needs_no_torch() -> None:
    assert all(field.description for field in SROptions.model_fields.values())
    code = "import sys, zoo_sr.options; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def random_network() -> IMDN:
    torch.manual_seed(2)
    return IMDN(channels=16, blocks=2).eval()


def test_a_seamless_texture_stays_seamless() -> None:
    """Rolled by half its size, a texture must give the rolled result: no border is special."""
    texture = noise(40, 48, 3)
    plain = copying.predictor_of(random_network(), seamless=True)
    result = plain.predict(texture).pixels.astype(int)
    rolled = plain.predict(np.roll(texture, (20, 24), (0, 1))).pixels.astype(int)
    assert abs(np.roll(result, (80, 96), (0, 1)) - rolled).max() <= 1


def test_the_self_ensemble_does_not_care_how_a_picture_is_held() -> None:
    pixels = noise(24, 18, 3)
    ensemble = copying.predictor_of(random_network(), self_ensemble=True)
    upright = ensemble.predict(pixels).pixels.astype(int)
    turned = ensemble.predict(np.rot90(pixels).copy()).pixels.astype(int)
    assert abs(np.rot90(upright) - turned).max() <= 1


@pytest.mark.parametrize("size", [(130, 97), (70, 64), (20, 20)])
def test_the_papers_cropping_covers_the_picture_and_says_that_it_is_not_exact(size: tuple[int, int]) -> None:
    pixels = noise(*size, 3)
    result = predictor(adaptive_cropping=True).predict(pixels)
    np.testing.assert_array_equal(result.pixels, repeated(pixels))
    assert not result.exact


@pytest.mark.parametrize("tile", [32, 50])
def test_tiles_change_nothing(tile: int) -> None:
    pixels = noise(70, 90, 3)
    whole = copying.predictor_of(random_network()).predict(pixels)
    tiled = copying.predictor_of(random_network(), tile=tile).predict(pixels)
    assert whole.tiles == 1
    assert tiled.tiles > 1
    assert tiled.exact
    np.testing.assert_array_equal(whole.pixels, tiled.pixels)


@pytest.mark.parametrize(
    ("network", "model", "scale"),
    [(IMDN_AS(channels=16, blocks=1), "imdn-as", 1), (IMDN_RTE(blocks=1), "imdn-rte", 2), (IMDN_RTC(), "imdn-rtc", 2)],
)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (3, 5), (21, 30), (5, 130)])
def test_networks_with_strides_take_any_size(
    network: torch.nn.Module, model: str, scale: int, size: tuple[int, int]
) -> None:
    result = copying.predictor_of(network.eval(), model).predict(noise(*size, 3))
    assert result.pixels.shape == (size[0] * scale, size[1] * scale, 3)


def test_the_any_scale_model_restores_what_bicubic_enlarged() -> None:
    torch.manual_seed(0)
    network = IMDN_AS(channels=16, blocks=1).eval()
    pixels = noise(20, 24, 3)
    direct = copying.predictor_of(network, "imdn-as").predict(resize(pixels, scale=2.5)).pixels
    np.testing.assert_array_equal(copying.predictor_of(network, "imdn-as", scale=2.5).predict(pixels).pixels, direct)


def test_overflow_in_half_precision_is_computed_again_and_never_black() -> None:
    network = copying.copying_network()
    with torch.no_grad():
        network.fea_conv.weight.mul_(1e6)  # beyond 65504, the end of fp16
        network.upsampler[0].weight.mul_(1e-6)
    pixels = noise(16, 16, 3)
    result = copying.predictor_of(network, precision="fp16").predict(pixels)
    assert abs(result.pixels.astype(int) - repeated(pixels)).max() <= 1
    assert any("computed again in fp32" in note for note in result.notes)


def test_damaged_weights_are_said_and_nothing_is_written(tmp_path: Path) -> None:
    network = copying.copying_network()
    with torch.no_grad():
        network.upsampler[0].bias.fill_(float("nan"))
    (outcome,) = run(copying.predictor_of(network), [copying.photo()], out=tmp_path)
    assert isinstance(outcome.error, ZooError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close(precision: str) -> None:
    pixels = noise(16, 16, 3)
    plain = copying.predictor_of(random_network()).predict(pixels).pixels.astype(int)
    half = copying.predictor_of(random_network(), precision=precision).predict(pixels).pixels.astype(int)
    assert abs(plain - half).max() <= (4 if precision == "bf16" else 1)


def test_results_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Gates pool over an image: a neighbour or padding in a batch would change them."""
    for i, size in enumerate([(20, 30), (33, 17), (20, 30)]):
        pil.fromarray(np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{i}.png")
    together = [o.result for o in run(copying.predictor_of(random_network()), [tmp_path])]
    for i, result in enumerate(together):
        alone = copying.predictor_of(random_network()).predict(tmp_path / f"{i}.png")
        assert result is not None
        np.testing.assert_array_equal(result.pixels, alone.pixels)  # type: ignore[attr-defined]


def test_metadata_stays_and_the_software_is_named(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = pil.Exif()
    exif[0x010E], exif[0x0112] = "a garden", 6
    pil.fromarray(noise(10, 20, 3)).save(tmp_path / "a.jpg", icc_profile=icc, exif=exif, dpi=(150, 150))
    (outcome,) = run(predictor(), [tmp_path / "a.jpg"], out=tmp_path / "out")
    with pil.open(outcome.written[0]) as picture:
        found = picture.getexif()
        assert picture.size == (40, 80)  # turned
        assert (found[0x010E], found.get(0x0112)) == ("a garden", None)
        assert "imdn-x4" in found[0x0131]
        assert picture.info["icc_profile"] == icc
        assert picture.info["dpi"] == (150, 150)
    (outcome,) = run(predictor(strip_metadata=True), [tmp_path / "a.jpg"], out=tmp_path / "bare")
    with pil.open(outcome.written[0]) as picture:
        assert dict(picture.getexif()) == {}
        assert picture.info["icc_profile"] == icc  # without it the colours would change


@pytest.mark.parametrize(("kind", "written"), [("gif", "gif"), ("png", "png"), ("webp", "webp"), ("tiff", "tif")])
def test_animations_are_enlarged_frame_by_frame(tmp_path: Path, kind: str, written: str) -> None:
    frames = [pil.fromarray(np.full((6, 8, 3), 100 * i, np.uint8)) for i in range(3)]
    timing = {} if kind == "tiff" else {"duration": 50}
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **timing)
    (outcome,) = run(predictor(all_frames=True), [tmp_path / f"a.{kind}"], out=tmp_path / "out")
    assert outcome.written[0].name == f"a_imdn-x4.{written}"
    with pil.open(outcome.written[0]) as picture:
        assert (picture.n_frames, picture.size) == (3, (32, 24))  # type: ignore[attr-defined]
    (outcome,) = run(predictor(), [tmp_path / f"a.{kind}"], out=tmp_path / "one")
    assert outcome.result is not None
    assert any("--all-frames" in note for note in outcome.result.as_dict()["notes"])


def test_frames_that_a_format_cannot_hold_become_a_folder(tmp_path: Path) -> None:
    frames = [pil.new("RGB", (8, 6), (80 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    made = predictor(all_frames=True, image_format="jpg")
    (outcome,) = run(made, [tmp_path / "a.gif"], out=tmp_path / "out")
    assert sorted(p.name for p in outcome.written[0].iterdir()) == ["00001.jpg", "00002.jpg", "00003.jpg"]
    (outcome,) = run(made, [tmp_path / "a.gif"], out=tmp_path / "out", skip_existing=True)
    assert outcome.skipped


def test_the_comparison_shows_both_with_their_names(tmp_path: Path) -> None:
    made = predictor(compare=True)
    (outcome,) = run(made, [copying.photo()], out=tmp_path)
    assert [p.name for p in outcome.written] == ["photo_imdn-x4.png", "photo_imdn-x4_compare.png"]
    with pil.open(outcome.written[1]) as picture:
        assert picture.width > 2 * 1280
        assert picture.height > 960


def test_the_bytes_for_stdout_are_those_of_the_file(tmp_path: Path) -> None:
    result = predictor().predict(copying.photo())
    file = io.BytesIO()
    result.write(file)
    (path,) = result.save(tmp_path / "a.png")
    assert path.read_bytes() == file.getvalue()


def test_every_model_opens_with_its_manifest() -> None:
    """A manifest that names a scale or range that the code around the network does not follow would show here."""
    for entry in models(task="super-resolution"):
        assert entry.code("predictor") is SRPredictor
        assert entry.code("options") is SROptions


def test_killed_with_9_a_folder_has_no_broken_file_and_is_resumed(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(12):
        pil.fromarray(noise(40, 40, 3)).save(folder / f"{i}.png")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom copying_network import copying_network, predictor_of\n"
        "from zoo_core.predict import run\n"
        "for outcome in run(predictor_of(copying_network()), [sys.argv[2]], out=Path(sys.argv[3])):\n"
        "    print(1, flush=True)"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    done = sorted(out.glob("*.png"))
    assert 1 <= len(done) < 12
    for path in done:
        with pil.open(path) as picture:
            picture.load()
    outcomes = list(run(predictor(), [folder], out=out, skip_existing=True))
    assert sum(outcome.skipped for outcome in outcomes) == len(done)
    assert len(list(out.glob("*.png"))) == 12
