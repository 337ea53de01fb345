"""What the training loop needs to know of Aurora small: the recipe's keys, batches, losses, optimiser, evaluation."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from zoo_core.train import TrainRecipe, decay_groups, step_generator, warm_cosine
from zoo_forecast.small import LEVELS, AuroraSmall, Outlook
from zoo_forecast.small_exam import Exam
from zoo_forecast.small_inputs import Inputs
from zoo_forecast.windows import CHOICES, Shares, Window, Windows

CLIP = 8.0  # of what the flow learns, in spreads
STEADY = 0.2  # what is added to a series' restlessness before its loss is divided by it


class Recipe(TrainRecipe):
    """The keys of an Aurora small recipe beside those of every recipe."""

    packs: tuple[str, ...] = Field(
        description="series to learn: paths, or names below ZOO_PACKS; none: made ones alone"
    )
    synthetic: Path | None = Field(None, description="file of python -m zoo_forecast.synth; none: a few, made now")
    tower: Path | None = Field(None, description="MiniLM's weights; by default they are found")
    texts: bool = Field(True, description="read texts; without them no tower is needed")
    learning_rate: float = Field(1e-3, gt=0, description="highest rate of AdamW")
    final_share: float = Field(0.01, ge=0, le=1, description="of that rate at the last step; a cosine leads there")
    warmup_steps: int = Field(1000, ge=0, description="steps of linear rise at the start")
    weight_decay: float = Field(0.05, ge=0, description="not of biases, norms and places")
    tuned: Literal["all", "heads", "tower"] = Field(
        "all", description="heads: the last layer and the heads alone learn; tower: the light tower learns from MiniLM"
    )
    taught_steps: int = Field(0, ge=0, description="the flow learns to end where so many steps of its own end; 0: off")
    flow_weight: float = Field(0.1, ge=0, description="of the flow's loss beside that of the quantiles")
    synthetic_share: float = Field(0.5, ge=0, le=1, description="of windows of made series")
    mixed: float = Field(0.2, ge=0, le=1, description="windows that are sums of two real series (TSMixup)")
    flipped: float = Field(0.3, ge=0, le=1, description="windows that are turned upside down")
    gaps: float = Field(0.15, ge=0, le=1, description="windows in which points are missing")
    wild: float = Field(0.1, ge=0, le=1, description="windows with outliers in the context")
    censored: float = Field(0.05, ge=0, le=1, description="windows that are cut off above")
    covariates: float = Field(0.15, ge=0, le=1, description="windows with covariates")
    events: float = Field(0.25, ge=0, le=1, description="windows in which an event happens, of which a text may tell")
    text_dropped: float = Field(0.3, ge=0, le=1, description="windows of real series with texts that hide them")
    foreign_texts: float = Field(
        0.2, ge=0, le=1, description="windows without a text that get one of another series, which says nothing here"
    )
    texts_cut: float = Field(
        0.0, ge=0, le=1, description="windows with a text of a pack, their own or not, that get a few sentences of it"
    )
    told_among: float = Field(
        0.0, ge=0, le=1, description="of the texts that tell of events, which stand among sentences of the packs' texts"
    )
    words_dropped: float = Field(
        0.0, ge=0, le=1, description="of a text's tokens, so that no phrase is learnt by heart"
    )
    other_length: float = Field(0.25, ge=0, le=1, description="windows whose tokens do not follow the period")

    @property
    def shares(self) -> Shares:
        """How often windows are changed."""
        own = {name: getattr(self, name) for name in Shares._fields if name != "synthetic"}
        return Shares(synthetic=self.synthetic_share, **own)


class SmallTask:
    """One training problem for `zoo_core.train.fit`.

    Args:
        network: on the device.
        recipe: all keys.
        windows: what is learnt.
        exam: what is held out.
        device: where all of it lives.
    """

    def __init__(
        self, network: AuroraSmall, recipe: Recipe, windows: Windows, exam: Exam, device: torch.device
    ) -> None:
        self.module: nn.Module = network
        self.network, self.recipe, self.windows, self.exam, self.device = network, recipe, windows, exam, device
        self.make = torch.compile(windows.__call__) if recipe.compile else windows

    def fingerprint(self) -> str:
        """Identify all series."""
        both = self.windows.real.fingerprint + self.windows.synthetic.fingerprint
        return hashlib.sha256(both.encode()).hexdigest()

    def parts(self) -> list[nn.Module]:
        """Return what is compiled."""
        return self.network.parts()

    def optimizer(self) -> torch.optim.Optimizer:
        """See `adamw`."""
        return adamw(self.module, self.recipe, self.device)

    def learning_rate(self, step: int) -> float:
        """See `cosine_rate`."""
        return cosine_rate(self.recipe, step)

    def batch(self, step: int) -> Tensor:
        """Uniform numbers, from which the device makes the windows itself."""
        return torch.rand(self.recipe.batch, CHOICES, generator=step_generator(self.recipe.seed, step))

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Pinball losses of the quantiles and, by itself, the distance of the flow from the clean tokens."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            window: Window = self.make(batch)
        outlook: Outlook = self.module(self._dropped(window.inputs))
        quantile = quantile_loss(outlook, window)
        flow = self._flow_loss(outlook, window)
        return quantile + self.recipe.flow_weight * flow, {"quantile": quantile, "flow": flow}

    def _dropped(self, inputs: Inputs) -> Inputs:
        text = inputs.text
        if text is None or not self.recipe.words_dropped:
            return inputs
        kept = torch.rand(text.shape[:2], device=text.device) >= self.recipe.words_dropped
        return inputs._replace(text=text * kept[..., None])  # rows of zeros are not there

    def _flow_loss(self, outlook: Outlook, window: Window) -> Tensor:
        # departures from the median in spreads: as wide as the noise they come from. The flow does not pull at the
        # conditions, as in Aurora
        start, spread = outlook.start.detach(), outlook.spread.detach()
        clean = ((window.target - start) / spread).clamp(-CLIP, CLIP) * window.asked
        t = torch.rand(clean.shape[:2], device=clean.device)
        mixed = t[..., None] * clean + (1 - t[..., None]) * torch.randn_like(clean)
        found = self.network.flow(mixed, t, outlook.conditions.detach())
        off: Tensor = (found.float() - clean).square() * window.asked
        return off.sum() / window.asked.sum().clamp(min=1)

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """See `Exam`."""
        assert isinstance(module, AuroraSmall)  # noqa: S101 - for the type checker
        return self.exam(module)


def adamw(module: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over what learns; no decay of what has one dimension, nor of places."""
    groups = decay_groups(module, recipe.weight_decay, free=("place",))
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=device.type == "cuda")


def cosine_rate(recipe: Recipe, step: int) -> float:
    """Linear rise, then half a cosine down."""
    highest, lowest = recipe.learning_rate, recipe.learning_rate * recipe.final_share
    return warm_cosine(step, steps=recipe.steps, warmup_steps=recipe.warmup_steps, highest=highest, lowest=lowest)


@lru_cache(maxsize=8)
def quantile_levels(device: torch.device) -> Tensor:
    """Return the levels on a device; made once, as nothing may be copied there while a CUDA graph is recorded."""
    return torch.tensor(LEVELS, device=device)


def quantile_loss(outlook: Outlook, window: Window) -> Tensor:
    """Return the mean over windows of twice the mean pinball loss, over how restless each series is."""
    levels = quantile_levels(window.target.device)
    error = window.target[..., None] - outlook.quantiles
    loss = 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1)
    each = (loss * window.asked).sum((1, 2)) / window.asked.sum((1, 2)).clamp(min=1)
    relative: Tensor = (each / (window.inputs.unit + STEADY)).mean()
    return relative
