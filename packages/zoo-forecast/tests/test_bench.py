"""`zoo bench`: the ways agree, and are said to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_aurora import TINY, tiny_aurora
from tiny_small import TINY as TINY_SMALL
from tiny_small import tiny_small

from zoo_core.catalog import find
from zoo_core.errors import UsageError
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.bench import bench
from zoo_forecast.measuring.peers import MODULES
from zoo_forecast.small_bench import bench as bench_small


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device_the_fused_sampler_is_one_more_way(weights: Path) -> None:
    report = bench(find("aurora-base"), size="2", rounds=1, weights=weights, device="cuda")
    assert report.agrees
    assert [timing.way for timing in report.timings] == ["plain", "ours", "ours bf16", "ours bf16, fused"]


@pytest.mark.parametrize("size", ["0", "many", "2-hole", "-1"])
def test_a_size_that_is_none(size: str) -> None:
    with pytest.raises(UsageError, match="--size 64"):
        bench(find("aurora-base"), size=size, device="cpu")


def test_the_quantile_head_gives_the_values_of_the_paths(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    write_tensors(path, tiny_small().state_dict(), {CONFIG: json.dumps(TINY_SMALL)})
    report = bench_small(find("aurora-small"), size="3", rounds=1, weights=path, device="cpu")
    assert report.agrees
    assert [timing.way for timing in report.timings] == ["ours", "ours quantiles"]
    assert set(report.facts["ms_a_series"]) == {"ours", "ours quantiles"}


@pytest.mark.parametrize("name", MODULES)
def test_peers_of_aurora_small_run_beside_it(name: str) -> None:
    report = bench_small(find("aurora-small"), against=[name], size="1", rounds=1, device="cpu")
    if report.not_run:
        assert report.not_run[0].name == name
        assert "zoo-forecast[peers]" in report.not_run[0].why
    else:
        assert report.timings[-1].way == name
        assert report.timings[-1].seconds


def test_an_unknown_peer_or_size_of_aurora_small() -> None:
    with pytest.raises(UsageError, match="fracast"):
        bench_small(find("aurora-small"), against=["fracats"])
    with pytest.raises(UsageError, match="--size 16"):
        bench_small(find("aurora-small"), size="many")
