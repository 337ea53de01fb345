"""`zoo bench`: the ways agree, and are said to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_aurora import TINY, tiny_aurora

from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.bench import bench


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_tensors(path, tiny_aurora().state_dict(), {CONFIG: json.dumps(TINY)})
    return path


@pytest.mark.parametrize(("size", "ways"), [("2", 3), ("2-whole", 4)])
def test_all_ways_give_the_same_paths(weights: Path, size: str, ways: int) -> None:
    report = bench(find("aurora-base"), size=size, rounds=1, weights=weights, device="cpu")
    assert (report.agrees, len(report.timings), report.not_run) == (True, ways, ())
    assert 0 < report.timings[1].difference.most < 1e-3  # type: ignore[union-attr]


@pytest.mark.parametrize("size", ["0", "many", "2-hole", "-1"])
def test_a_size_that_is_none(size: str) -> None:
    with pytest.raises(UsageError, match="--size 64"):
        bench(find("aurora-base"), size=size, device="cpu")
