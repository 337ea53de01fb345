"""Maps in files hold what was written; full disks and tight control groups are seen before the work, not after it."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_core.errors import ZooError
from zoo_sr import storage, tiling
from zoo_sr.imdn import IMDN
from zoo_sr.regions import Grid, Region
from zoo_sr.sweep import Moments

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_file_holds_what_memory_holds(dtype, tmp_path):
    bounds = Region(0, 0, 23, 31)
    kept = storage.MemoryMap(bounds, 6, dtype, CPU, CPU)
    filed = storage.FileMap(bounds, 6, dtype, CPU, tmp_path)
    for region in [*Grid.over(23, 31, 8, 2).tiles(), Region(3, 0, 9, 31), Region(22, 30, 23, 31), bounds]:
        values = torch.randn(1, 6, region.height, region.width).to(dtype)
        kept.write(region, values)
        filed.write(region, values)
        for looked_at in (region, Region(2, 5, 20, 29), bounds):
            if region == bounds or looked_at == region:
                read = filed.read(looked_at)
                assert torch.equal(read, kept.read(looked_at))
                assert read.is_contiguous(memory_format=torch.channels_last)
    assert list(tmp_path.iterdir()) == []  # unlinked: nothing stays behind, whatever happens to the process
    filed.close()


def test_layouts_are_the_same_wherever_a_map_lives(tmp_path):
    # A tensor in another layout makes convolutions round differently: this once changed pixels.
    for shape in ((9, 7), (1, 7), (9, 1), (1, 1)):
        bounds = Region(0, 0, *shape)
        maps = [
            storage.MemoryMap(bounds, 4, torch.float32, CPU, CPU),
            storage.FileMap(bounds, 4, torch.float32, CPU, tmp_path),
        ]
        for one in maps:
            one.write(bounds, torch.randn(1, 4, *shape))
        strides = {one.read(bounds).stride() for one in maps}
        assert len(strides) == 1, strides
        maps[1].close()


def test_a_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "free_disk_bytes", lambda folder: 1000)
    with pytest.raises(ZooError, match="no room for temporary files") as caught:
        tiling.upscale(IMDN(2).eval(), np.zeros((64, 64, 3), np.uint8), memory_limit_bytes=1, scratch=tmp_path)
    assert "TMPDIR" in caught.value.remedy


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fills_up_during_the_work_ends_with_a_sentence(tmp_path):
    filed = storage.FileMap(Region(0, 0, 4, 4), 2, torch.float32, CPU, tmp_path)
    filed.file.close()
    filed.file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 - closed below
    with pytest.raises(ZooError, match="no room for temporary files"):
        filed.write(Region(0, 0, 4, 4), torch.zeros(1, 2, 4, 4))
    filed.close()


def test_a_scratch_folder_that_is_none_ends_with_a_sentence(tmp_path):
    with pytest.raises(ZooError, match="no folder for temporary files"):
        tiling.upscale(
            IMDN(2).eval(), np.zeros((64, 64, 3), np.uint8), memory_limit_bytes=1, scratch=tmp_path / "missing"
        )


@pytest.mark.parametrize("version", [1, 2])
def test_the_memory_of_a_control_group_counts(tmp_path, version):
    base = tmp_path if version == 2 else tmp_path / "memory"
    inner = base / "outer/inner"
    inner.mkdir(parents=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for folder, limit, used, cache in (
        (inner, "max" if version == 2 else str(1 << 62), 50, 0),
        (inner.parent, "1000", 700, 200),
    ):
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 3\n{names[2]} {cache}\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n" if version == 2 else "5:cpu:/x\n4:memory:/outer/inner\n")
    assert min(storage._cgroup_free_bytes(tmp_path, membership)) == 500


def test_without_a_control_group_or_meminfo_there_is_an_answer(tmp_path):
    assert min(storage._cgroup_free_bytes(tmp_path, tmp_path / "missing")) > 1 << 50
    assert storage._available_bytes(tmp_path / "missing") > 0
    assert storage.free_memory_bytes(CPU) > 0


@given(cuts=st.lists(st.integers(1, 4999), max_size=6), offset=st.floats(-100, 100), spread=st.floats(1e-3, 10))
@settings(max_examples=30, deadline=None)
def test_moments_do_not_depend_on_how_the_pixels_are_cut(cuts, offset, spread):
    values = torch.randn(1, 3, 1, 5000, generator=torch.Generator().manual_seed(1)) * spread + offset
    moments = Moments()
    edges = [0, *sorted(set(cuts)), 5000]
    for left, right in pairwise(edges):
        moments.add(values[..., left:right])
    variance, mean = torch.var_mean(values.double(), dim=(0, 2, 3), correction=0)
    assert torch.allclose(moments.mean, mean, rtol=0, atol=1e-13 * (1 + abs(offset)))
    assert torch.allclose(moments.variance(), variance, rtol=1e-11, atol=0)


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    tile=st.integers(8, 300),
    halo=st.integers(0, 40),
    least=st.integers(1, 3000),
)
@settings(max_examples=100, deadline=None)
def test_tiles_cover_the_map_once_and_windows_are_even(height, width, tile, halo, least):
    grid = Grid.over(height, width, tile, halo)
    tiles = grid.tiles()
    assert sum(core.pixels for core in tiles) == height * width
    windows = [core.window(halo, grid.bounds) for core in tiles]
    assert max(w.height for w in windows) <= tile + 2 * halo + 1
    assert max(w.width for w in windows) - min(w.width for w in windows) <= 2
    for core, window in zip(tiles, windows, strict=True):
        grown = core.window(halo, grid.bounds, least)
        assert grown.common(window) == window
        assert grown.pixels >= min(least, height * width)
    strips = grid.strips(1000)
    assert sum(strip.pixels for strip in strips) == height * width
    assert {strip.width for strip in strips} == {width}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twelve_megapixels_stay_below_four_gigabytes():
    """One block instead of six: every block takes the same memory, and the time a sixth."""
    code = """
import resource, numpy as np, torch
from zoo_sr.imdn import IMDN
from zoo_sr.tiling import upscale
torch.manual_seed(0)
image = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
result = upscale(IMDN(4, blocks=1).eval(), image)
assert result.image.shape == (12000, 16000, 3)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 4 << 30
