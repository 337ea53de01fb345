"""Train IMDN by a recipe: `python -m zoo_sr.train imdn-x4 [key=value ...]` or `zoo train imdn-x4 [key=value ...]`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.catalog import CatalogEntry, find
from zoo_core.config import load_recipe
from zoo_core.errors import WeightsError
from zoo_core.io.packs import pack_paths
from zoo_core.train import RunRecord, TrainRecipe, fit, seed_all
from zoo_core.weights.build import construct
from zoo_core.weights.files import read_tensors
from zoo_core.weights.find import find as find_weights
from zoo_sr.data import Photo, PhotoPool, fingerprint, read_photos, synthetic_photos
from zoo_sr.metrics import psnr_y
from zoo_sr.resize import resize_tensor


class Recipe(TrainRecipe):
    """The keys of an IMDN recipe beside those of every recipe."""

    packs: tuple[str, ...] = Field(description="paths, or names below ZOO_PACKS; none: a few synthetic photos")
    patch: int = Field(48, ge=8, description="side of a small patch in pixels")
    learning_rate: float = Field(5e-4, gt=0, description="highest learning rate of Adam")
    final_learning_rate: float = Field(
        1e-6, gt=0, description="learning rate at the last step; the way down is a cosine"
    )
    warmup_steps: int = Field(500, ge=0, description="steps of linear rise at the start")


class SRTask:
    """What the training loop needs to know of super-resolution: network, batches, loss and optimiser."""

    def __init__(self, network: nn.Module, scale: int, recipe: Recipe, device: torch.device) -> None:
        self.module, self.scale, self.recipe, self.device = network, scale, recipe, device
        if recipe.packs:
            paths = pack_paths(recipe.packs)
            train, self.validation = read_photos(paths, "train"), read_photos(paths, "val")
        else:
            train, self.validation = synthetic_photos(8, 128, seed=1), synthetic_photos(2, 64, seed=2)
        self._fingerprint = fingerprint(train)
        self.pool = PhotoPool(
            train, scale=scale, patch=recipe.patch, batch=recipe.batch, seed=recipe.seed, device=device
        )
        self.cut = torch.compile(self.pool.cut) if recipe.compile else self.pool.cut

    def fingerprint(self) -> str:
        """Identify the training data."""
        return self._fingerprint

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with a shorter memory of squares than the default, as the runs are short."""
        return torch.optim.Adam(
            self.module.parameters(), self.recipe.learning_rate, betas=(0.9, 0.99), fused=self.device.type == "cuda"
        )

    def learning_rate(self, step: int) -> float:
        """Linear rise, then half a cosine down to the final rate."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return recipe.learning_rate * (step + 1) / recipe.warmup_steps
        way = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return (
            recipe.final_learning_rate
            + (recipe.learning_rate - recipe.final_learning_rate) * (1 + math.cos(math.pi * way)) / 2
        )

    def batch(self, step: int) -> Tensor:
        """Where the patches of this step lie: little to copy to the device, which cuts them out itself."""
        return self.pool.draw(step)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error over pixels and channels (equation 1 of the paper)."""
        low, high = self.cut(batch)
        output = self.module(low.contiguous(memory_format=torch.channels_last))
        return functional.l1_loss(output.float(), high), {}

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Mean Y-PSNR (Matlab protocol, dB) over the whole validation photos."""
        return {"psnr_y": sum(self._psnr(module, photo) for photo in self.validation) / len(self.validation)}

    def _psnr(self, module: nn.Module, photo: Photo) -> float:
        rows, columns = (side // self.scale for side in photo.pixels.shape[:2])
        high = torch.from_numpy(photo.pixels[: rows * self.scale, : columns * self.scale].copy()).movedim(2, 0)
        low = resize_tensor(high, size=(rows, columns)).to(self.device)
        output = module(low[None].float() / 255)[0]
        enlarged = (output.float().clamp(0, 1) * 255).round().byte().movedim(0, 2).cpu().numpy()
        return psnr_y(enlarged, high.movedim(0, 2).numpy(), border=self.scale)

    def describe(self, step: int) -> str:
        """Name the photos of a batch."""
        return self.pool.describe(step)


def start(network: nn.Module, init: Path) -> None:
    """Load what fits from a weight file or a model id; the layers of another scale keep their fresh weights.

    Raises:
        WeightsError: fewer than nine in ten tensors fit.
    """
    path = init if init.suffix else find_weights(find(str(init))).path
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
    device = torch.device("cuda" if torch.cuda.is_available() and settings.device != "cpu" else "cpu")
    seed_all(settings.seed)
    network = construct(entry).to(device).to(memory_format=torch.channels_last)
    if settings.init is not None:
        start(network, settings.init)
    return fit(
        SRTask(network, entry.manifest.config.get("scale", 2), settings, device),
        settings,
        out,
        resume=resume,
        dry_run=dry_run,
    )


if __name__ == "__main__":
    from zoo_core.cli.main import main

    main(["train", *sys.argv[1:]])
