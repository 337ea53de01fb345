"""What the training loop needs to know of super-resolution: the recipe's keys, batches, loss, optimiser, evaluation."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from zoo_core.io.packs import pack_paths
from zoo_core.train import TrainRecipe, warm_cosine
from zoo_sr.data import Photo, PhotoPool, fingerprint, read_photos, synthetic_photos
from zoo_sr.metrics import psnr_y
from zoo_sr.resize import resize_tensor
from zoo_sr.teacher import Teacher

LOG = logging.getLogger(__name__)


class Recipe(TrainRecipe):
    """The keys of an IMDN recipe beside those of every recipe."""

    packs: tuple[str, ...] = Field(description="paths, or names below ZOO_PACKS; none: a few synthetic photos")
    textures: tuple[str, ...] = Field((), description="packs of drawn structures (see zoo_sr.textures); may be none")
    patch: int = Field(48, ge=8, description="side of a small patch in pixels")
    learning_rate: float = Field(5e-4, gt=0, description="highest learning rate of Adam")
    final_learning_rate: float = Field(
        1e-6, gt=0, description="learning rate at the last step; the way down is a cosine"
    )
    warmup_steps: int = Field(500, ge=0, description="steps of linear rise at the start")
    teacher: Path | None = Field(None, description="model id or safetensors file of a network to learn from as well")
    teacher_share: float = Field(0.5, ge=0, le=1, description="of the loss that is the distance to the teacher")
    teacher_ensemble: bool = Field(True, description="the teacher averages over 8 flips and rotations")


class SRTask:
    """One training problem for `zoo_core.train.fit`.

    Args:
        network: what is trained, on the device.
        scale: how many times it enlarges.
        recipe: all keys.
        device: where the photos live.

    Raises:
        InputError: a pack is missing or damaged, or a photo smaller than a patch.
        UsageError: the teacher enlarges by another factor.
        WeightsError: the teacher has no weights, or they fit no model.
    """

    def __init__(self, network: nn.Module, scale: int, recipe: Recipe, device: torch.device) -> None:
        self.module, self.scale, self.recipe, self.device = network, scale, recipe, device
        if recipe.packs:
            paths = pack_paths(recipe.packs)
            train, self.validation = read_photos(paths, "train"), read_photos(paths, "val")
        else:
            train, self.validation = synthetic_photos(8, 128, seed=1), synthetic_photos(2, 64, seed=2)
        self.held_out_textures: list[Photo] = []
        if recipe.textures:
            paths = pack_paths(recipe.textures)
            train, self.held_out_textures = train + read_photos(paths, "train"), read_photos(paths, "val")
        self._fingerprint, self._teacher = fingerprint(train), ""
        self.pool = PhotoPool(
            train, scale=scale, patch=recipe.patch, batch=recipe.batch, seed=recipe.seed, device=device
        )
        if recipe.teacher is not None:
            teacher = Teacher.open(recipe.teacher, scale=scale, ensemble=recipe.teacher_ensemble, device=device)
            before = time.monotonic()
            self.pool.teach(teacher.enlarge)
            LOG.info("the teacher enlarged %d photos in %.1f s", len(train), time.monotonic() - before)
            self._teacher = teacher.sha256
        self.cut = torch.compile(self.pool.cut) if recipe.compile else self.pool.cut

    def fingerprint(self) -> str:
        """Identify the training data: the photos and textures."""
        return self._fingerprint

    def identities(self) -> dict[str, str]:
        """Identify the teacher by what its file holds; the file's name stands in the recipe."""
        return {"teacher": self._teacher} if self._teacher else {}

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam with a shorter memory of squares than the default, as the runs are short."""
        return torch.optim.Adam(
            self.module.parameters(), self.recipe.learning_rate, betas=(0.9, 0.99), fused=self.device.type == "cuda"
        )

    def learning_rate(self, step: int) -> float:
        """Linear rise, then half a cosine down to the final rate."""
        recipe = self.recipe
        highest, lowest = recipe.learning_rate, recipe.final_learning_rate
        return warm_cosine(step, steps=recipe.steps, warmup_steps=recipe.warmup_steps, highest=highest, lowest=lowest)

    def batch(self, step: int) -> Tensor:
        """Where the patches of this step lie: little to copy to the device, which cuts them out itself."""
        return self.pool.draw(step)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute error over pixels and channels (equation 1 of the paper), in part against the teacher.

        (1 - a) |out - high| + a |out - taught|, a being `teacher_share`. The second term is distillation of outputs. As
        what the teacher gave stands beside the true pixels, it needs no points, masks or schedules of
        `zoo_core.distill`.
        """
        low, high, taught = self.cut(batch)
        output = self.module(low.contiguous(memory_format=torch.channels_last)).float()
        error = functional.l1_loss(output, high)
        if taught is None:
            return error, {}
        distance, share = functional.l1_loss(output, taught), self.recipe.teacher_share
        return (1 - share) * error + share * distance, {"error": error, "to_teacher": distance}

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Mean Y-PSNR (Matlab protocol, dB) over the whole validation photos, and apart from it over the textures."""
        groups = {"psnr_y": self.validation, "psnr_y_textures": self.held_out_textures}
        return {
            key: sum(self._psnr(module, photo) for photo in photos) / len(photos)
            for key, photos in groups.items()
            if photos
        }

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
