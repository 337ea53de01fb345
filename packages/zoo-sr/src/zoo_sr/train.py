"""Train IMDN by a recipe: `python -m zoo_sr.train imdn-x4 [key=value ...]` or `zoo train imdn-x4 [key=value ...]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from zoo_core.catalog import CatalogEntry
from zoo_core.config import load_recipe
from zoo_core.errors import WeightsError
from zoo_core.train import RunRecord, fit, launch, seed_all
from zoo_core.weights.build import construct
from zoo_core.weights.files import read_tensors
from zoo_sr.task import Recipe, SRTask
from zoo_sr.teacher import weight_file


def start(network: nn.Module, init: Path) -> None:
    """Load what fits from a weight file or a model id; the layers of another scale keep their fresh weights.

    Raises:
        WeightsError: fewer than nine in ten tensors fit.
    """
    path = weight_file(init)
    tensors, _ = read_tensors(path)
    own = network.state_dict()
    fitting = {key: tensor for key, tensor in tensors.items() if key in own and own[key].shape == tensor.shape}
    if len(fitting) < 0.9 * len(own):
        raise WeightsError(
            f"{path}: only {len(fitting)} of {len(own)} tensors fit.", "Start from a model of this family."
        )
    network.load_state_dict(fitting, strict=False)


def train(
    entry: CatalogEntry,
    overrides: list[str],
    *,
    recipe: Path | None = None,
    out: Path,
    resume: Literal["auto", "never"] | Path = "auto",
    dry_run: bool = False,
    smoke: bool = False,
) -> RunRecord:
    """Train a model of this package by its recipe.

    Args:
        entry: the model.
        overrides: `key=value` over the recipe's keys.
        recipe: another recipe than the model's own.
        out: folder of the run.
        resume: see `zoo_core.train.fit`.
        dry_run: only say what the run would take.
        smoke: a run of seconds on synthetic photos.
    """
    settings = load_recipe(recipe or entry.recipe_path(), overrides, Recipe, smoke=smoke)
    fabric = launch(settings)
    seed_all(settings.seed)
    network = construct(entry).to(fabric.device).to(memory_format=torch.channels_last)
    if settings.init is not None:
        start(network, settings.init)
    return fit(
        SRTask(network, int(entry.manifest.outputs.scale or 1), settings, fabric.device),
        settings,
        out,
        resume=resume,
        dry_run=dry_run,
        fabric=fabric,
    )


if __name__ == "__main__":
    from zoo_core.cli.main import main

    main(["train", *sys.argv[1:]])
