"""Our networks are the authors': their weights load one to one, give their outputs, and the paper's figures.

The authors' weights and outputs lie in the data packs (spec 10: never shipped). Reference figures: spec 1.2, measured
with the authors' weights; golden outputs were made with the authors' code (torch 2.13, CPU, fp32).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo_core.catalog import find
from zoo_core.evaluate import Report
from zoo_core.weights.build import construct
from zoo_core.weights.files import load_strict
from zoo_sr.eval import evaluate

PACKS = Path(os.environ.get("ZOO_PACKS", Path(__file__).parents[3].parent / "shared/data"))
OFFICIAL, EVAL = PACKS / "sr/official", PACKS / "sr/eval"
pytestmark = pytest.mark.skipif(
    not (OFFICIAL.is_dir() and EVAL.is_dir()), reason="the data packs are not here: set ZOO_PACKS"
)

PARAMETERS = {
    "imdn-x2": 694_404,
    "imdn-x3": 703_059,
    "imdn-x4": 715_176,
    "imdn-as": 752_104,
    "imdn-rtc": 20_190,
    "imdn-rte": 89_748,
}


def official_path(model: str) -> Path:
    return OFFICIAL / f"{model.replace('-', '_')}.safetensors"


def official(model: str) -> nn.Module:
    module = construct(find(model)).eval()
    load_strict(module, load_file(official_path(model)), what=model)
    return module


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(OFFICIAL / "golden.safetensors")


@pytest.mark.parametrize("model", PARAMETERS)
def test_official_weights_load_strictly_and_count_to_the_unit(model: str) -> None:
    assert sum(p.numel() for p in official(model).parameters()) == PARAMETERS[model]


@pytest.mark.parametrize("case", ["butterfly", "odd", "noise", "flat"])
@pytest.mark.parametrize("model", PARAMETERS)
def test_outputs_are_those_of_the_authors_code(model: str, case: str, golden: dict[str, Tensor]) -> None:
    name = f"{model.replace('-', '_')}.{case}"
    if f"{name}.input" not in golden:
        pytest.skip(f"no golden case {name}")
    with torch.inference_mode():
        output = official(model)(golden[f"{name}.input"])
    # RTE runs on 0..255, so its own unit is 255 times smaller
    tolerance = 1e-4 if model == "imdn-rte" else 5e-6
    torch.testing.assert_close(output, golden[f"{name}.output"], rtol=0, atol=tolerance)


def test_every_intermediate_map_agrees(golden: dict[str, Tensor]) -> None:
    module = official("imdn-x4")
    taps = {key.removeprefix("imdn_x4.tap."): t for key, t in golden.items() if ".tap." in key}
    image = taps.pop("input")
    seen: dict[str, Tensor] = {}

    def note(name: str) -> object:
        return lambda _module, _inputs, output: seen.__setitem__(name, output)

    for name in taps:
        module.get_submodule(name).register_forward_hook(note(name))
    with torch.inference_mode():
        module(image)
    assert len(taps) == 6
    for name, expected in taps.items():
        torch.testing.assert_close(seen[name], expected, rtol=0, atol=5e-6, msg=lambda text, n=name: f"{n}: {text}")


FIGURES = [  # spec 1.2: model, pack, protocol, PSNR, SSIM
    ("imdn-x4", "set5", "matlab", 32.2096, 0.89476),
    ("imdn-x4", "set5", "python", 32.1867, 0.89362),
    ("imdn-x3", "set5", "matlab", 34.3597, 0.92698),
    ("imdn-x3", "set5", "python", 34.3233, 0.92587),
    ("imdn-x2", "set5", "matlab", 37.9960, 0.96049),
    ("imdn-x2", "set5", "python", 37.9105, 0.95945),
    pytest.param("imdn-x4", "set14", "matlab", 28.5820, 0.7811, marks=pytest.mark.slow),
    pytest.param("imdn-x3", "set14", "matlab", 30.3216, 0.8417, marks=pytest.mark.slow),
    pytest.param("imdn-x2", "set14", "matlab", 33.6266, 0.9177, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "pack", "protocol", "psnr", "ssim"), FIGURES)
def test_the_papers_figures_are_reproduced(model: str, pack: str, protocol: str, psnr: float, ssim: float) -> None:
    path = EVAL / f"{pack}.parquet"
    report = evaluate(find(model), str(path), weights=official_path(model), protocol=protocol, device="cpu")
    assert report.metrics["psnr_y"] == pytest.approx(psnr, abs=1e-3)
    assert report.metrics["ssim_y"] == pytest.approx(ssim, abs=1e-4)
    assert report.passed
    if protocol == "matlab":
        _agree_with_the_measured_scores(report, model, {"set5": "Set5", "set14": "Set14"}[pack])


def _agree_with_the_measured_scores(report: Report, model: str, pack: str) -> None:
    scores = json.loads((EVAL / "reference_scores.json").read_text())[pack]
    for row in report.rows:
        reference = scores[row["name"]][model.removeprefix("imdn-")]
        for way, theirs in (("ours", "imdn_official"), ("bicubic", "bicubic")):
            psnr, ssim = reference[theirs]
            assert row[way]["psnr_y"] == pytest.approx(psnr, abs=1e-3), f"{row['name']}, {way}"
            assert row[way]["ssim_y"] == pytest.approx(ssim, abs=2e-5), f"{row['name']}, {way}"
