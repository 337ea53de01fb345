"""`zoo weights convert FILE`: a user has a checkpoint from somewhere and wants to know what it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from zoo_core.errors import WeightsError
from zoo_core.weights.convert import recognise as recognise_any
from zoo_core.weights.convert import recognise_file
from zoo_sr.convert import recognise
from zoo_sr.imdn import IMDN, IMDN_AS, IMDN_RTC, IMDN_RTE

PACKS = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[3].parent / "shared/data"))
OFFICIAL = PACKS / "sr/official"
MODELS = {
    "imdn-x2": lambda: IMDN(2),
    "imdn-x3": lambda: IMDN(3),
    "imdn-x4": lambda: IMDN(4),
    "imdn-as": IMDN_AS,
    "imdn-rtc": IMDN_RTC,
    "imdn-rte": IMDN_RTE,
}


@pytest.mark.parametrize("model_id", MODELS)
@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the data packs are not here: set ZOO_PACKS")
def test_official_checkpoints_are_recognised_as_the_authors_published_them(model_id: str, tmp_path: Path) -> None:
    tensors = load_file(OFFICIAL / f"{model_id.replace('-', '_')}.safetensors")
    # the authors' files are legacy pickles; all but model_RTC.pth have a prefix
    prefix = "" if model_id == "imdn-rtc" else "module."
    path = tmp_path / "theirs.pth"
    torch.save({prefix + k: t for k, t in tensors.items()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match="pickle"):
        recognise_file(path)
    found = recognise_file(path, from_pickle=True)
    assert found.model_id == model_id
    assert "the authors' weights" in found.what
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[k], t) for k, t in tensors.items())


@pytest.mark.parametrize("model_id", MODELS)
def test_weights_of_our_own_are_recognised_and_not_taken_for_the_authors(model_id: str) -> None:
    found = recognise(MODELS[model_id]().state_dict())
    assert found is not None
    assert found.model_id == model_id
    assert "authors" not in found.what
    assert not found.missing


def test_a_missing_key_is_named() -> None:
    tensors = IMDN(4).state_dict()
    del tensors["IMDB3.cca.conv_du.0.weight"]
    with pytest.raises(WeightsError, match=r"IMDB3\.cca\.conv_du\.0\.weight"):
        recognise_any(tensors, origin="theirs.pth")


def test_another_size_is_said() -> None:
    found = recognise(IMDN(4, blocks=4).state_dict())
    assert found is not None
    assert (found.model_id, found.what) == ("", "IMDN x4 of another size: 64 channels, 4 blocks")


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"B1.c1_d.weight": (25, 50, 1, 1), "upsampler.0.weight": (48, 50, 3, 3)}, "RFDN, x4"),
        ({"block_1.c1_r.weight": (46, 46, 3, 3), "upsampler.0.weight": (12, 46, 3, 3)}, "RLFN, x2"),
        ({"block_1.c1_r.sk.weight": (48, 48, 1, 1), "upsampler.0.weight": (48, 48, 3, 3)}, "SPAN, x4"),
        ({"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}, "ESRGAN"),
        ({"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)}, "Real-ESRGAN"),
        ({"model.1.sub.0.conv1.0.weight": (64, 64, 3, 3), "model.2.weight": (48, 64, 3, 3)}, "AIM 2019), x4"),
    ],
)
def test_networks_that_we_cannot_load_are_named(keys: dict[str, tuple[int, ...]], name: str) -> None:
    tensors: dict[str, Tensor] = {key: torch.zeros(shape) for key, shape in keys.items()}
    with pytest.raises(WeightsError, match="no installed model reads it") as caught:
        recognise_any(tensors, origin="theirs.pth")
    assert name in caught.value.message


def test_anything_else_is_left_to_others() -> None:
    assert recognise({"encoder.weight": torch.zeros(3)}) is None
    assert recognise({}) is None
    # the right keys with wrong shapes: the comparison with our models says which
    tensors = IMDN(4).state_dict()
    tensors["LR_conv.weight"] = torch.zeros(64, 64, 1, 1)
    assert recognise(tensors) is None
