"""Training: what is drawn and cut, from which weights a run starts, what a teacher adds, and that nothing is lost."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo_core.catalog import find, models
from zoo_core.config import load_recipe, parse_yaml
from zoo_core.errors import InputError, UsageError, WeightsError
from zoo_core.train import Order, RunRecord
from zoo_core.train.log import read_table
from zoo_core.train.state import existing
from zoo_core.weights.build import construct
from zoo_sr.data import REDUCTIONS, Photo, PhotoPool, read_photos, synthetic_photos
from zoo_sr.framing import self_ensemble
from zoo_sr.imdn import IMDN, IMDN_RTC
from zoo_sr.metrics import psnr_y
from zoo_sr.resize import resize, resize_tensor
from zoo_sr.task import Recipe, SRTask
from zoo_sr.teacher import Teacher, averaged
from zoo_sr.textures import rows as drawn_rows
from zoo_sr.textures import write_pack
from zoo_sr.train import start, train

CPU = torch.device("cpu")
PACKS = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[3].parent / "shared/data"))
TURNS = list(itertools.product((0, 1), repeat=3))
CHANNELS = list(itertools.permutations(range(3)))
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny work is slower on more; and a run is bit-equal only to one with as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["synthetic", "real"])
def photos(request: pytest.FixtureRequest) -> list[Photo]:
    if request.param == "synthetic":
        return synthetic_photos(5, 90, seed=3)
    pack = PACKS / "sr/train/photos.parquet"
    if not pack.is_file():
        pytest.skip("the data packs are not here: set ZOO_PACKS")
    # odd sides, unequal ones, and few pixels, for the sake of time
    return [Photo(p.name, p.pixels[: 131 - 6 * i, : 101 + 7 * i]) for i, p in enumerate(read_photos([pack], "val"))]


def pool_of(photos: list[Photo], scale: int, **changes: Any) -> PhotoPool:
    return PhotoPool(photos, **{"scale": scale, "patch": 9, "batch": 3, "seed": 5, "device": CPU, **changes})


def task_of(photos: list[Photo], network: nn.Module, scale: int, folder: Path, **keys: Any) -> SRTask:
    """Return a task on a pack of these photos, for training and validation alike."""
    encoded = []
    for photo in photos:
        Image.fromarray(photo.pixels).save(buffer := io.BytesIO(), "png")
        encoded.append(buffer.getvalue())
    names, splits = [photo.name for photo in photos], ["train"] * len(photos) + ["val"] * len(photos)
    table = pyarrow.table({"name": [*names, *(f"{n} again" for n in names)], "split": splits, "image": encoded * 2})
    pyarrow.parquet.write_table(table, folder / "pack.parquet")
    packs = (str(folder / "pack.parquet"),)
    return SRTask(network, scale, Recipe(**{"packs": packs, "steps": 9, "batch": 3, "patch": 9, **keys}), CPU)


def in_bytes(patch: Tensor) -> np.ndarray:
    """(3, p, p) in [0, 1] -> (p, p, 3) uint8; refuses what no byte stands for."""
    values = patch.movedim(0, 2).double().numpy() * 255
    assert np.abs(values - np.rint(values)).max() < 1e-4
    return np.rint(values).astype(np.uint8)


def turned_by_hand(window: np.ndarray, flips: tuple[int, ...], channels: tuple[int, ...]) -> np.ndarray:
    """What a draw says, done with numpy: rows reversed, then columns, then transposed; channels in another order."""
    window = window[::-1] if flips[0] else window
    window = window[:, ::-1] if flips[1] else window
    window = window.swapaxes(0, 1) if flips[2] else window
    return np.ascontiguousarray(window[:, :, list(channels)])


# -- what is cut -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patches_are_the_drawn_windows_for_every_turn_and_channel_order(photos: list[Photo], scale: int) -> None:
    pool = pool_of(photos, scale, reductions=(1.0, 0.85))
    photo, p = photos[1], pool.patch
    # by hand: the second size of the second photo
    reduced = resize(photo.pixels, scale=0.85)
    rows, columns = (side // scale for side in reduced.shape[:2])
    high = reduced[: rows * scale, : columns * scale]
    low = resize(high, size=(rows, columns))
    level = int(pool.first[1]) + 1
    assert pool.sizes[level].tolist() == [rows, columns]
    # flush with the last row and column
    place = (rows - p, columns - p)
    ways = list(itertools.product(TURNS, CHANNELS))
    starts = (int(pool.low_start[level]), int(pool.high_start[level]))
    crops = pool.cut(torch.tensor([[*starts, *place, columns, *flips, *channels] for flips, channels in ways]))
    assert crops.taught is None
    for (flips, channels), low_patch, high_patch in zip(ways, crops.low, crops.high, strict=True):
        window, large = low[place[0] :, place[1] :], high[place[0] * scale :, place[1] * scale :]
        assert np.array_equal(in_bytes(low_patch), turned_by_hand(window, flips, channels))
        assert np.array_equal(in_bytes(high_patch), turned_by_hand(large, flips, channels))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_low_patch_is_the_reduced_high_patch_but_for_the_taps_beyond_its_border(
    photos: list[Photo], scale: int
) -> None:
    pool = pool_of(photos, scale, batch=64)
    draws = pool.draw(7)
    crops = pool.cut(draws)
    assert {0, 1} == set(draws[:, 7].tolist())
    for transposed, low, high in zip(draws[:, 7], crops.low, crops.high, strict=True):
        # back to how it lay in the photo: rows are reduced first, and bytes are rounded between the passes
        lay = (low.mT, high.mT) if transposed else (low, high)
        small, large = (in_bytes(patch) for patch in lay)
        again = resize(large, size=(pool.patch, pool.patch))
        # the widened kernel reaches 2 pixels of the small image
        assert np.array_equal(again[2:-2, 2:-2], small[2:-2, 2:-2])
    assert len({patch.numpy().tobytes() for patch in crops.low}) == 64


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_and_step_alone(photos: list[Photo]) -> None:
    one, other = pool_of(photos, 2), pool_of(photos, 2)
    backwards = [one.draw(step) for step in (6, 5, 4)][::-1]
    torch.rand(5)  # the global generator has no say
    assert all(torch.equal(a, other.draw(step)) for a, step in zip(backwards, (4, 5, 6), strict=True))
    assert not torch.equal(one.draw(4), one.draw(5))
    assert not torch.equal(one.draw(4), pool_of(photos, 2, seed=6).draw(4))


def test_every_photo_is_seen_once_an_epoch(photos: list[Photo]) -> None:
    pool = pool_of(photos, 2, batch=len(photos))
    ends = [*pool.low_start[pool.first[1:]].tolist(), len(pool.low)]
    for step in (0, 1, 8):
        seen = np.searchsorted(ends, pool.draw(step)[:, 0].numpy(), side="right")
        assert sorted(seen.tolist()) == list(range(len(photos)))
        assert pool.describe(step) == ", ".join(photos[i].name for i in seen)


def test_draws_cover_every_size_turn_channel_order_and_place(photos: list[Photo]) -> None:
    pool = pool_of(photos, 2, batch=4000)
    draws = pool.draw(0)
    assert set(draws[:, 0].tolist()) == set(pool.low_start.tolist())
    assert len(pool.sizes) == len(photos) * len(REDUCTIONS)
    assert {tuple(row) for row in draws[:, 5:8].tolist()} == set(TURNS)
    assert {tuple(row) for row in draws[:, 8:].tolist()} == set(CHANNELS)
    for start_, (rows, columns) in zip(pool.low_start.tolist(), pool.sizes.tolist(), strict=True):
        places = draws[draws[:, 0] == start_][:, 2:4]
        assert places.min(0).values.tolist() == [0, 0]
        assert places.max(0).values.tolist() == [rows - pool.patch, columns - pool.patch]


def test_sizes_too_small_for_a_patch_are_left_out_and_a_photo_without_any_is_one_clear_error() -> None:
    big, small = synthetic_photos(1, 40, seed=1)[0], Photo("tiny.jpg", np.zeros((40, 17, 3), np.uint8))
    assert pool_of([big], 2, patch=18).counts.tolist() == [1]
    with pytest.raises(InputError) as caught:
        pool_of([big, small], 2)
    assert str(caught.value) == "tiny.jpg: smaller than a patch of 18 pixels. Use a smaller patch."


# -- recipes -----------------------------------------------------------------------------------------------------------

RECIPES = {entry.manifest.id: entry.recipe_path() for entry in models("imdn-*") if entry.manifest.recipe}


def test_all_recipes_have_the_same_keys_in_the_same_order() -> None:
    parsed = [parse_yaml(path.read_text(), origin=str(path)) for path in RECIPES.values()]
    assert len({tuple(recipe) for recipe in parsed}) == 1
    assert len({tuple(recipe["smoke"]) for recipe in parsed}) == 1
    assert set(RECIPES.values()) == set(next(iter(RECIPES.values())).parent.glob("*.yaml"))


@pytest.mark.parametrize("model", RECIPES)
def test_a_recipe_is_valid_and_every_key_has_a_comment(model: str) -> None:
    for smoke in (False, True):
        settings = load_recipe(RECIPES[model], [], Recipe, smoke=smoke)
    assert settings.packs == ()
    keys = [line for line in RECIPES[model].read_text().splitlines() if re.match(r"\w+:", line)]
    assert len(keys) > 20
    assert [line for line in keys if not re.search(r"  # \w.{8,}", line)] == []


# -- from which weights a run starts -----------------------------------------------------------------------------------


def test_init_from_another_scale_carries_all_but_the_upsampler(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, target = IMDN(2), IMDN(4)
    fresh = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    save_file(source.state_dict(), tmp_path / "x2.safetensors")
    start(target, tmp_path / "x2.safetensors")
    for key, tensor in target.state_dict().items():
        origin = fresh if key.startswith("upsampler") else source.state_dict()
        assert torch.equal(tensor, origin[key]), key


def test_init_from_another_network_is_refused_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "rtc.safetensors"
    save_file(IMDN_RTC().state_dict(), file)
    with pytest.raises(WeightsError) as caught:
        start(IMDN(4), file)
    assert str(caught.value) == f"{file}: only 0 of 92 tensors fit. Start from a model of this family."


# -- the teacher -------------------------------------------------------------------------------------------------------


def weights_of(model: str, file: Path, *, brighter: float = 0.0, seed: int = 0) -> Path:
    """Write fresh weights whose outputs lie well inside [0, 1]."""
    torch.manual_seed(seed)
    tensors = construct(find(model)).state_dict()
    last = [key for key in tensors if key.endswith("bias")][-1]
    tensors[last] = torch.full_like(tensors[last], 0.5 + brighter)
    save_file(tensors, file)
    return file


def test_the_average_on_the_device_is_the_self_ensemble_of_prediction() -> None:
    torch.manual_seed(2)
    network = IMDN(3, 16, 2).eval()
    image = torch.rand(2, 3, 13, 10)
    with torch.no_grad():
        found = averaged(network, image)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(pixels).movedim(2, 0)[None])[0].movedim(0, 2).numpy()

    for one, output in zip(image, found, strict=True):
        expected = self_ensemble(run)(one.movedim(0, 2).numpy())
        assert np.abs(output.movedim(0, 2).numpy() - expected).max() < 1e-6


def test_what_the_teacher_made_is_cut_like_the_photo(photos: list[Photo], tmp_path: Path) -> None:
    teacher = Teacher.open(weights_of("imdn-rtc", tmp_path / "t.safetensors"), scale=2, ensemble=False, device=CPU)
    pool = pool_of(photos, 2, batch=30)
    plain = pool.cut(pool.draw(3))
    pool.teach(teacher.enlarge)
    taught = pool.cut(pool.draw(3))
    assert torch.equal(plain.low, taught.low)
    assert torch.equal(plain.high, taught.high)
    # the same pool with the teacher's pictures in place of the photos: cut by the same draws it gives the same patches
    for level, (rows, columns) in enumerate(pool.sizes.tolist()):
        low = pool.low[pool.low_start[level] :][: rows * columns * 3].view(rows, columns, 3).movedim(2, 0)
        large = teacher.enlarge(low[None])[0].movedim(0, 2).reshape(-1)
        pool.high[pool.high_start[level] :][: large.numel()] = large
    assert torch.equal(pool.cut(pool.draw(3)).high, taught.taught)
    assert not torch.equal(plain.high, taught.taught)


def test_a_student_that_is_its_own_teacher_starts_with_no_loss_but_rounding(tmp_path: Path) -> None:
    # a photo of one patch: the student sees what the teacher saw, so gates and borders are the same
    photo = [Photo("one", synthetic_photos(1, 24, seed=4)[0].pixels)]
    own = weights_of("imdn-x2", tmp_path / "own.safetensors")
    other = weights_of("imdn-x2", tmp_path / "other.safetensors", brighter=0.1)
    losses = {}
    for name, keys in {
        "own": {"teacher": own, "teacher_share": 1.0},
        "other": {"teacher": other, "teacher_share": 1.0},
        "half": {"teacher": other, "teacher_share": 0.25},
        "none": {},
    }.items():
        network = IMDN(2)
        start(network, own)
        task = task_of(photo, network, 2, tmp_path, patch=12, teacher_ensemble=False, **keys)
        as_it_lies = torch.tensor([[0, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2]])
        loss, logs = task.loss(as_it_lies)
        losses[name] = float(loss.detach())
        assert set(logs) == ({"error", "to_teacher"} if keys else set())
    assert 0 < losses["own"] < 0.5 / 255
    assert losses["other"] == pytest.approx(0.1, abs=0.5 / 255)
    assert losses["half"] == pytest.approx(0.75 * losses["none"] + 0.25 * losses["other"], rel=1e-5)


def test_a_teacher_of_another_scale_or_range_is_refused(tmp_path: Path) -> None:
    for model in ("imdn-x4", "imdn-rte"):
        file = weights_of(model, tmp_path / f"{model}.safetensors")
        with pytest.raises(UsageError, match=f"is {model}, which cannot teach a model that enlarges 2 times"):
            Teacher.open(file, scale=2, ensemble=True, device=CPU)


def test_another_teacher_is_another_run(tmp_path: Path) -> None:
    file, out = tmp_path / "t.safetensors", tmp_path / "run"
    train_rtc(out, f"teacher={weights_of('imdn-rtc', file)}", "steps=2")
    (out / "record.json").unlink()  # as if the run had been stopped before its end
    weights_of("imdn-rtc", file, seed=1)
    with pytest.raises(UsageError, match=r"was trained with another teacher \([0-9a-f]{12}, this is [0-9a-f]{12}\)\."):
        train_rtc(out, f"teacher={file}", "steps=2")
    with pytest.raises(UsageError, match=r"was trained with teacher=.*t\.safetensors, this recipe says None"):
        train_rtc(out, "steps=2")


def test_textures_are_learned_from_judged_apart_and_make_another_run(tmp_path: Path) -> None:
    def pack(name: str, seed: int) -> str:
        write_pack(tmp_path / name, list(drawn_rows(10, width=96, height=96, seed=seed)), overwrite=True)
        return f"textures=[{tmp_path / name}]"

    out, given = tmp_path / "run", pack("t.parquet", seed=1)
    logged = train_rtc(out, given, "steps=2", "eval_every=2")
    assert {"psnr_y", "psnr_y_textures"} <= set(logged.metrics)
    (out / "record.json").unlink()  # as if the run had been stopped before its end
    train_rtc(out, given, "steps=2", "eval_every=2")
    (out / "record.json").unlink()
    pack("t.parquet", seed=2)
    with pytest.raises(UsageError, match="was trained on other data"):
        train_rtc(out, given, "steps=2", "eval_every=2")
    with pytest.raises(UsageError, match="was trained with textures="):
        train_rtc(out, "steps=2", "eval_every=2")


# -- whole runs --------------------------------------------------------------------------------------------------------


def train_rtc(out: Path, *overrides: str) -> RunRecord:
    return train(find("imdn-rtc"), ["device=cpu", *overrides], out=out, smoke=True)


def command(model: str, out: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "zoo_sr.train", model, "--smoke", "-o", str(out), "device=cpu", *overrides]


def test_the_smoke_recipe_of_x4_runs_as_a_module_and_its_loss_falls(tmp_path: Path) -> None:
    done = subprocess.run(command("imdn-x4", tmp_path), env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = [row["loss"] for row in read_table(tmp_path / "log.csv")]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
    record = RunRecord.model_validate_json((tmp_path / "record.json").read_text())
    assert record.status == "finished"
    assert record.parameters == 715_176
    assert load_file(tmp_path / "weights.safetensors").keys() == IMDN(4).state_dict().keys()


@pytest.mark.parametrize("taught", [False, True], ids=["alone", "taught"])
def test_killed_and_resumed_the_run_ends_bit_equal(tmp_path: Path, *, taught: bool) -> None:
    keys = ["steps=100", "save_every=10", "eval_every=60", "log_every=5"]
    if taught:
        keys.append(f"teacher={weights_of('imdn-rtc', tmp_path / 'teacher.safetensors')}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen(command("imdn-rtc", killed, *keys), env=ONE_THREAD, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 40
        while not existing(killed / "checkpoints") and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert existing(killed / "checkpoints"), "no checkpoint in 40 s"
    resumed = train_rtc(killed, *keys)
    assert resumed.sessions == 2
    train_rtc(whole, *keys)
    assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    rows = [[{**row, "step_seconds": 0} for row in read_table(run / "log.csv")] for run in (whole, killed)]
    assert len(rows[0]) == 20
    assert rows[0] == rows[1]
    assert ("to_teacher" in rows[0][0]) == taught


# -- evaluation --------------------------------------------------------------------------------------------------------


class Bicubic(nn.Module):
    """Enlarges as Matlab does, by bytes, which the true figure is made of."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2] * self.scale, x.shape[3] * self.scale)
        return resize_tensor((x * 255).round().byte(), size=size).float() / 255


@pytest.mark.parametrize("scale", [2, 3])
def test_the_validation_figure_of_bicubic_enlargement_is_bicubic_psnr(
    photos: list[Photo], scale: int, tmp_path: Path
) -> None:
    expected = []
    for photo in photos:
        rows, columns = (side // scale for side in photo.pixels.shape[:2])
        high = photo.pixels[: rows * scale, : columns * scale]
        back = resize(resize(high, size=(rows, columns)), size=(rows * scale, columns * scale))
        expected.append(psnr_y(back, high, border=scale))
    task = task_of(photos, IMDN(scale, 16, 1), scale, tmp_path)
    found = task.evaluate(Bicubic(scale))
    assert found == {"psnr_y": pytest.approx(np.mean(expected), abs=1e-9)}
    assert 15 < found["psnr_y"] < 60


def test_the_order_of_photos_is_that_of_the_core(photos: list[Photo]) -> None:
    pool = pool_of(photos, 2, batch=4)
    order = Order(len(photos), 4, 5)
    names = [photos[i].name for i in order.indices(11)]
    assert pool.describe(11) == ", ".join(names)
