"""Weights in 8 bits: nothing is lost but what is said, and files that contradict themselves are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo_core.errors import WeightsError
from zoo_core.weights.eight_bits import LARGEST, SCALE, compact, widened
from zoo_core.weights.files import load_strict, read_tensors, write_tensors


def _tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(8, 96, generator=draw) * torch.logspace(-9, 4, 8)[:, None]
    wide[3] = 0
    return {
        "wide": wide,
        "narrow": torch.randn(96, 5, generator=draw),
        "position": torch.randn(4, 96, generator=draw),
        "bias": torch.randn(96, generator=draw),
        "number": torch.tensor([1, 2**40]),
        "norm.scale": torch.randn(96, generator=draw),
    }


def test_every_weight_comes_back_within_half_a_step(tmp_path: Path) -> None:
    tensors, path = _tensors(), tmp_path / "eight.safetensors"
    write_tensors(path, compact(tensors, but="position"), {})
    back, _ = read_tensors(path)
    assert back.keys() == tensors.keys()
    step = tensors["wide"].abs().amax(1, keepdim=True) / LARGEST
    assert ((back["wide"] - tensors["wide"]).abs() <= step * 0.5001).all()
    assert back["wide"].dtype == torch.float32
    assert not back["wide"][3].any()
    assert torch.equal(back["number"], tensors["number"])
    for name in ("narrow", "position", "bias", "norm.scale"):
        assert torch.equal(back[name], tensors[name].half()), name


def test_rounding_twice_is_rounding_once() -> None:
    once = widened(compact(_tensors()), what="once")
    twice = widened(compact(once), what="twice")
    torch.testing.assert_close(twice["wide"], once["wide"], rtol=1e-6, atol=0)


def test_a_file_may_be_read_as_it_is_kept(tmp_path: Path) -> None:
    made, path = compact(_tensors()), tmp_path / "eight.safetensors"
    write_tensors(path, made, {})
    kept, _ = read_tensors(path, as_kept=True)
    assert kept.keys() == made.keys()
    assert all(torch.equal(kept[name], tensor) and kept[name].dtype == tensor.dtype for name, tensor in made.items())


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (torch.ones(7, 1), r"has the shape \(7, 1\); wide in 8 bits needs \(8, 1\)"),
        (torch.ones(8), r"has the shape \(8,\)"),
        (torch.full((8, 1), torch.nan), "finite"),
        (torch.ones(8, 1, dtype=torch.int32), "finite numbers"),
    ],
    ids=["rows", "flat", "nan", "whole numbers"],
)
def test_a_scale_that_does_not_fit_is_named(tmp_path: Path, scale: Tensor, says: str) -> None:
    path = tmp_path / "eight.safetensors"
    write_tensors(path, {**compact(_tensors()), "wide" + SCALE: scale}, {})
    with pytest.raises(WeightsError, match=rf"eight\.safetensors: wide\.scale .*{says}"):
        read_tensors(path)


def test_a_matrix_whose_scale_is_lost_fits_nothing() -> None:
    layer = nn.Linear(96, 8)
    made = compact(layer.state_dict())
    load_strict(layer, widened(made, what="file"), what="file")
    del made["weight" + SCALE]
    with pytest.raises(WeightsError, match="int8"):
        load_strict(layer, widened(made, what="file"), what="file")
