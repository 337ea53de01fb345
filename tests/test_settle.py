"""What is kept of a trained network: rounded weights load, and a network that rounding breaks is not kept."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from zoo_core.catalog import find
from zoo_core.weights.build import build
from zoo_core.weights.files import read_tensors, sha256_of, write_tensors
from zoo_core.weights.find import FoundWeights

TOOL = Path(__file__).parent.parent / "tools" / "settle.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settle", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("bits", "bytes_each"), [(8, 1.06), (16, 2.02)])
def test_settled_weights_have_the_size_that_was_asked_for_and_load(
    tool: ModuleType, tmp_path: Path, bits: int, bytes_each: float
) -> None:
    entry, path = find("aurora-small"), tmp_path / "settled.safetensors"
    tensors, facts = read_tensors(entry.folder / "weights" / "aurora-small.safetensors")
    write_tensors(path, tool.rounded(entry, tensors, bits), facts)
    assert path.stat().st_size < bytes_each * entry.manifest.parameters
    build(entry, FoundWeights(path, "path", None, ""), device=torch.device("cpu"), dtype=torch.float32)


def test_a_network_that_eight_bits_break_is_not_settled(tool: ModuleType) -> None:
    entry = find("aurora-small")
    tensors, _ = read_tensors(entry.folder / "weights" / "aurora-small.safetensors")
    # a column that only covariates use is so large that beside it all others of a row round to nothing
    first = tensors["embed.straight.weight"].float()
    spoilt = first.clone()
    spoilt[:, 2 * 48] = 3000 * first.abs().amax()
    with pytest.raises(SystemExit, match="keep these weights in 16 bits"):
        tool.rounded(entry, {**tensors, "embed.straight.weight": spoilt}, 8)


@pytest.mark.parametrize("model", ["aurora-small", "aurora-small-10m"])
def test_a_card_has_the_figures_of_the_file_that_is_published(tool: ModuleType, model: str) -> None:
    entry, folder = find(model), TOOL.parent.parent / "models" / model
    published = (entry.folder / "weights" if entry.manifest.weights else folder) / f"{model}.safetensors"
    record = json.loads((folder / "figures-test.json").read_text(encoding="utf-8"))
    seed = list(record["weights"].values()).index(sha256_of(published))
    told = {metric.name: metric.value for metric in entry.manifest.metrics}
    assert told == {says: round(record["figures"][name][seed], 4) for name, says in tool.FORECASTS.items()}
