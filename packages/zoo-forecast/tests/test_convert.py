"""`zoo weights convert FILE`: the authors' checkpoint in either spelling, and what only looks like it."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from zoo_core.catalog import find
from zoo_core.errors import WeightsError
from zoo_core.weights.build import construct, expected
from zoo_core.weights.convert import recognise as recognise_any
from zoo_forecast.convert import our_key, recognise


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    """Keys, shapes and types without memory."""
    return expected(find("aurora-base"))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as transformers 5 names them: its own ViT says how."""
    from transformers import ViTConfig, ViTModel

    with torch.device("meta"):
        new = list(ViTModel(ViTConfig(num_hidden_layers=12)).state_dict())
    prefix = "model.VisionEncoder.model."
    old = [key for key in tensors if key.startswith(prefix)]
    names = {our_key(prefix + name): prefix + name for name in new}
    assert names.keys() == set(old)
    return {names.get(key, key): tensor for key, tensor in tensors.items()}


def test_both_spellings_are_recognised_and_give_our_keys(official: dict[str, Tensor]) -> None:
    new = renamed(official)
    assert sum(key not in official for key in new) == 192
    for spelling in (official, new):
        found = recognise_any(dict(spelling), origin="model.safetensors")
        assert found.model_id == "aurora-base"
        assert "authors" in found.what
        assert found.tensors.keys() == official.keys()


def test_a_spelling_names_the_same_tensor(official: dict[str, Tensor]) -> None:
    # all shapes of one layer differ between queries and outputs of the MLP, so a swap would show there; values do it
    marked = {key: torch.full((1,), float(n)) for n, key in enumerate(official)}
    moved = {our_key(key): tensor for key, tensor in renamed(marked).items()}
    assert moved == marked


def test_what_is_missing_is_named(official: dict[str, Tensor]) -> None:
    lacking = {key: tensor for key, tensor in official.items() if key != "model.fuse.bias"}
    with pytest.raises(WeightsError, match=re.escape("model.fuse.bias")):
        recognise_any(lacking, origin="model.safetensors")


def test_aurora_of_another_size_is_no_model_of_ours(official: dict[str, Tensor]) -> None:
    config = {**find("aurora-base").manifest.config, "width": 64}
    with torch.device("meta"):
        other = construct(find("aurora-base"), config).state_dict()
    found = recognise(other)
    assert found is not None
    assert (found.model_id, found.what) == ("", "Aurora of another size")


def test_another_network_is_left_to_others() -> None:
    assert recognise({"conv.weight": torch.zeros(1)}) is None
