"""Devices and processes: found before data are read, so that what they cannot do is said at once."""

from __future__ import annotations

import os

import torch
from lightning.fabric import Fabric

from zoo_core.errors import UsageError
from zoo_core.train.recipe import TrainRecipe


def launch(recipe: TrainRecipe) -> Fabric:
    """Take one device, or this process's part of what torchrun started.

    Returns:
        the launched Fabric; `fabric.device` is where the data of this process belong.

    Raises:
        UsageError: the recipe asks for what these devices cannot do.
    """
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device=cuda, and PyTorch finds no CUDA device.", "Set device=auto, or check `zoo doctor`.")
    accelerator = recipe.device if recipe.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "LOCAL_RANK" not in os.environ:
        fabric = Fabric(accelerator=accelerator, devices=1)
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        fabric = Fabric(accelerator=accelerator, strategy="ddp", devices=local, num_nodes=world // local)
    fabric.launch()
    _check(recipe, fabric)
    return fabric


def _check(recipe: TrainRecipe, fabric: Fabric) -> None:
    """Refuse what this device, or this number of processes, cannot do."""
    if fabric.device.type != "cuda":
        ways = {
            "graph=true": ("graph=false", recipe.graph),
            "precision=fp16": ("precision=fp32", recipe.precision == "fp16"),
        }
        asked = {way: instead for way, (instead, wanted) in ways.items() if wanted}
        if asked:
            verb = "needs" if len(asked) == 1 else "need"
            raise UsageError(
                f"{' and '.join(asked)} {verb} a CUDA device.", f"On a CPU set {' '.join(asked.values())}."
            )
    if recipe.graph and fabric.world_size > 1:
        raise UsageError(f"graph=true runs on one device, not on {fabric.world_size} processes.", "Set graph=false.")
    if recipe.batch % fabric.world_size:
        raise UsageError(
            f"batch={recipe.batch} cannot be shared equally among {fabric.world_size} processes.",
            "Choose a batch that their number divides.",
        )
