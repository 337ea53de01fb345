"""The conformance suite is worth something: each fault is caught by the check that is meant for it, and by no other.

The example of docs/add-a-model.md gets models that each have one fault, and the suite runs over them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo_core.testing.conformance import Conformance
from zoo_core.weights.files import sha256_of, write_tensors

NETWORKS = '''\
"""Networks that each have one fault."""

import random

import torch

from zoo_grain.grain import Grain


class Sociable(Grain):
    def forward(self, x):
        return super().forward(x) - x.nan_to_num().mean()


class Forgetful(Grain):
    def __init__(self, kernel=3):
        super().__init__(kernel)
        self.shift = random.random()

    def forward(self, x):
        return super().forward(x) + self.shift


class Coarse(Grain):
    def forward(self, x):
        return super().forward(x) * (1 if x.dtype == torch.float32 else 1.2)
'''
PREDICTORS = '''\
"""Predictors that each have one fault."""

import io

import torch
from PIL import Image as pil

from zoo_grain.predict import Cleaned, GrainPredictor


class Unsure(GrainPredictor):
    def forward(self, prepared, *, progress=None):
        return super().forward(prepared) + torch.randn(prepared.shape)


class Fragile(GrainPredictor):
    def read(self, source):
        yield pil.open(io.BytesIO(source.read_bytes())).convert("RGB")


class Careless(GrainPredictor):
    def finish(self, item, output):
        return CarelessCleaned(super().finish(item, output).image)


class CarelessCleaned(Cleaned):
    def save(self, path, *, overwrite=False):
        path.parent.mkdir(exist_ok=True)
        self.image.save(path)
        return (path,)


class Talkative(GrainPredictor):
    def file_names(self, source):
        if source.name == "stdin":
            print("reading stdin")
        return super().file_names(source)
'''
TRAININGS = '''\
"""Trainings that each have one fault."""

import itertools

from zoo_core.config import load_recipe
from zoo_core.train import fit, seed_all
from zoo_core.weights.build import construct
from zoo_grain.train import GrainTask, Recipe


class CountingTask(GrainTask):
    def __init__(self, module, recipe):
        super().__init__(module, recipe)
        self.calls = itertools.count()

    def batch(self, step):
        return super().batch(next(self.calls))


class IdleTask(GrainTask):
    def loss(self, batch):
        return 1 + 0 * self.module(batch[0]).mean(), {}


def _train(task, entry, overrides, *, recipe=None, out, resume="auto", dry_run=False, smoke=False):
    settings = load_recipe(recipe or entry.recipe_path(), overrides, Recipe, smoke=smoke)
    seed_all(settings.seed)
    return fit(task(construct(entry), settings), settings, out, resume=resume, dry_run=dry_run)


def counting(*arguments, **options):
    return _train(CountingTask, *arguments, **options)


def idle(*arguments, **options):
    return _train(IdleTask, *arguments, **options)
'''
HEAVY_OPTIONS = "import torch\n\nfrom zoo_core.options import Options\n\n\nclass Heavy(Options):\n    pass\n"

# model -> the check that must fail, and what is changed in the manifest
Faults = dict[str, tuple[str, dict[str, Any]]]
OF_NETWORKS: Faults = {
    "wrong-parameters": ("test_parameters_are_counted_right", {"parameters": 85}),
    "wrong-flops": ("test_flops_are_counted_right", {"flops": {"count": 663553, "at": [1, 3, 64, 64]}}),
    "no-such-code": ("test_entry_points_exist", {"entry": {"evaluate": "zoo_grain.networks:missing"}}),
    "sociable": ("test_independent_of_the_batch", {"entry": {"model": "zoo_grain.networks:Sociable"}}),
    "forgetful": ("test_save_and_load_round_trip", {"entry": {"model": "zoo_grain.networks:Forgetful"}}),
    "coarse": (
        "test_half_precision",
        {"entry": {"model": "zoo_grain.networks:Coarse"}, "precisions": ["fp32", "bf16"]},
    ),
    "stale": ("test_golden_output", {}),
}
OF_PREDICTION: Faults = {
    "heavy-options": ("test_options_need_no_torch", {"entry": {"options": "zoo_grain.heavy:Heavy"}}),
    "unsure": ("test_predictions_repeat", {"entry": {"predictor": "zoo_grain.predictors:Unsure"}}),
    "fragile": ("test_hostile_inputs", {"entry": {"predictor": "zoo_grain.predictors:Fragile"}}),
    "careless": ("test_nothing_is_overwritten_unasked", {"entry": {"predictor": "zoo_grain.predictors:Careless"}}),
    "talkative": ("test_command_contract", {"entry": {"predictor": "zoo_grain.predictors:Talkative"}}),
}
OF_TRAINING: Faults = {
    "bare-recipe": ("test_recipe_is_valid_and_explained", {"recipe": "bare-recipe.yaml"}),
    "counting": (
        "test_killed_and_resumed_ends_bit_equal",
        {"entry": {"train": "zoo_grain.trainings:counting"}, "recipe": "counting.yaml"},
    ),
    "idle": ("test_smoke_training_learns", {"entry": {"train": "zoo_grain.trainings:idle"}, "recipe": "idle.yaml"}),
}
# what shows the faults: the models have no other rooms, which saves time
ROOMS = {"networks": (), "prediction": ("predictor",), "training": ("train",)}
FAULTS = {"networks": OF_NETWORKS, "prediction": OF_PREDICTION, "training": OF_TRAINING}


def _weights() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (3, 3, 3, 3), "conv.bias": (3,)}
    return {key: 0.1 * torch.randn(shape, generator=random) for key, shape in shapes.items()}


def _publish(package: Path, manifest: dict[str, Any], *, golden_shift: float) -> None:
    """Give a model embedded weights and a golden example; a shift makes it the example of other weights."""
    model, tensors = manifest["id"], _weights()
    path = package / "weights" / f"{model}.safetensors"
    write_tensors(path, tensors, {})
    facts = {"source": "embedded", "file": path.name, "licence": "CC0-1.0", "trained_on": "nothing"}
    manifest["weights"] = [{**facts, "size_bytes": path.stat().st_size, "sha256": sha256_of(path)}]
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    output = x + torch.nn.functional.conv2d(x, tensors["conv.weight"], tensors["conv.bias"], padding=1) + golden_shift
    write_tensors(package / "golden" / f"{model}.safetensors", {"input": x, "output": output}, {})


def _install(guide: Any, folder: Path, group: str) -> None:
    """Make a folder for the import path with the example package, and models with the faults of a group."""
    guide.write(folder)
    package = folder / "zoo_grain"
    for name, code in {
        "networks": NETWORKS,
        "predictors": PREDICTORS,
        "trainings": TRAININGS,
        "heavy": HEAVY_OPTIONS,
    }.items():
        (package / f"{name}.py").write_text(code)
    recipe = (package / "recipes" / "grain-tiny.yaml").read_text()
    (package / "recipes" / "bare-recipe.yaml").write_text(recipe.replace("# updates of the weights", ""))
    for name in ("counting", "idle"):
        (package / "recipes" / f"{name}.yaml").write_text(recipe)
    sound = json.loads((package / "manifests" / "grain-tiny.json").read_text())
    sound["entry"] = {room: sound["entry"][room] for room in ("model", *ROOMS[group])}
    if group != "training":
        del sound["recipe"]
    models = {"grain-tiny": ("", {}), **FAULTS[group], **({"published": ("", {})} if group == "networks" else {})}
    for model, (_, changes) in models.items():
        manifest = {**sound, **changes, "id": model, "entry": {**sound["entry"], **changes.get("entry", {})}}
        if model in ("stale", "published"):
            _publish(package, manifest, golden_shift=0.01 if model == "stale" else 0.0)
        (package / "manifests" / f"{model}.json").write_text(json.dumps(manifest))
    # what an installer would leave behind, so that the entry point is found
    information = folder / "zoo_grain-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: zoo-grain\nVersion: 0.1.0\n")
    (information / "entry_points.txt").write_text("[zoo.packages]\ngrain = zoo_grain\n")


@pytest.mark.parametrize("group", list(FAULTS))
def test_each_fault_is_caught_by_its_check(guide: Any, tmp_path: Path, group: str) -> None:
    _install(guide, tmp_path, group)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests", "-v", "--tb=short", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=58,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    outcomes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in done.stdout.splitlines():
        if line.startswith("tests/test_conformance.py::") and "[" in line and "NOTSET" not in line:
            name, outcome = line.split()[:2]
            check, _, model = name.rpartition("::")[2].rstrip("]").partition("[")
            outcomes[model.removesuffix("-bf16").removesuffix("-fp16")][outcome].append(check)
    failed = {model: found["FAILED"] + found["ERROR"] for model, found in outcomes.items()}
    meant = {model: [check] for model, (check, _) in FAULTS[group].items()}
    sound: dict[str, list[str]] = {model: [] for model in failed if model in ("grain-tiny", "published")}
    assert failed == {**meant, **sound}, done.stdout
    assert sound
    if group == "networks":
        assert "test_golden_output" in outcomes["published"]["PASSED"]


def test_a_package_that_is_not_there_is_said(guide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unnamed(Conformance):
        pass

    class Missing(Conformance):
        package = "zoo_nowhere"

    class Empty(Conformance):
        package = "zoo_grain"

    with pytest.raises(pytest.fail.Exception, match='package = "zoo_mine" in class Unnamed'):
        Unnamed.entries()
    with pytest.raises(pytest.fail.Exception, match=r'entry-points."zoo.packages".* mine = "zoo_nowhere"'):
        Missing.entries()
    _install(guide, tmp_path, "networks")
    for path in (tmp_path / "zoo_grain" / "manifests").iterdir():
        path.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=r"no manifest in .*zoo_grain/manifests"):
        Empty.entries()
