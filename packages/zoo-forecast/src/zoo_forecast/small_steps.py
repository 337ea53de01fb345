"""Teach the flow of Aurora small to arrive in one to four steps instead of fifty.

The teacher follows its own flow from noise to the end. The student is shown points on the straight line between both
and names the end (reflow: Liu et al., arXiv:2209.03003): its paths become straight, and few steps do. All else of the
network stays as it is, so that quantiles do not change at all.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo_core.distill import Teacher
from zoo_core.distill.losses.features import mse
from zoo_core.train import step_generator
from zoo_forecast.flow import FlowNet, sample
from zoo_forecast.small import AuroraSmall, Outlook
from zoo_forecast.small_exam import Exam
from zoo_forecast.small_task import Recipe, SmallTask
from zoo_forecast.windows import Window, Windows

SHOWN = 4  # steps whose times are shown most
OFTEN = 0.5  # share of these among all times
SETTLED = 512  # tokens with which it is measured


class Journey(nn.Module):
    """A flow followed to its end.

    Args:
        flow: f.
        steps: Euler steps.
    """

    def __init__(self, flow: FlowNet, steps: int) -> None:
        super().__init__()
        self.flow, self.steps = flow, steps
        self.points = flow.input_proj.in_features

    def forward(self, start: Tensor) -> Tensor:
        """Noise and condition side by side (N, p + d) -> clean tokens (N, p)."""
        noise, z = start[:, : self.points], start[:, self.points :]
        return sample(self.flow, noise[None], z, steps=self.steps, sampler="ode")[0]


class StepsTask(SmallTask):
    """Few steps instead of many: a task for `zoo_core.train.fit`. Arguments as of `SmallTask`.

    The recipe's `init` is the network whose flow teaches.
    """

    def __init__(
        self, network: AuroraSmall, recipe: Recipe, windows: Windows, exam: Exam, device: torch.device
    ) -> None:
        super().__init__(network, recipe, windows, exam, device)
        network.requires_grad_(False)
        network.flow.requires_grad_(True)
        self.teacher = Teacher(Journey(copy.deepcopy(network.flow), recipe.taught_steps), {}, inputs="start")

    def identities(self) -> dict[str, str]:
        """Identify the teacher."""
        return self.teacher.identities()

    def check_unchanged(self) -> None:
        """Raise if the teacher has moved."""
        self.teacher.check_unchanged()

    def config(self) -> dict[str, Any]:
        """Return what differs from the manifest: the steps that the student is published with."""
        return {"sampling_steps": SHOWN}

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean square between the student's end and the teacher's, from a point on the line between noise and end."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            window: Window = self.make(batch)
        with torch.no_grad():
            outlook: Outlook = self.module(window.inputs)
            z = outlook.conditions.float().flatten(0, 1)
            noise = torch.randn(len(z), self.network.token_length, device=z.device)
            end = self.teacher({"start": torch.cat([noise, z], 1)}).out
            t = torch.rand(len(z), device=z.device)
            shown = (t * SHOWN).floor() / SHOWN
            t = torch.where(torch.rand_like(t) < OFTEN, shown, t)
            mixed = t[:, None] * end + (1 - t[:, None]) * noise
        found = self.network.flow(mixed, t, z)
        return mse(found.float(), end).mean(), {}

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Return the mean distance to the teacher's ends after 1, 2 and 4 steps, in spreads of the forecast."""
        assert isinstance(module, AuroraSmall)  # noqa: S101 - for the type checker
        chances = self.batch(0).to(self.device)[:SETTLED]
        z = module(self.windows(chances).inputs).conditions.float().flatten(0, 1)[:SETTLED]
        draws = torch.randn(len(z), module.token_length, generator=step_generator(self.recipe.seed, 0))
        start = torch.cat([draws.to(self.device), z], 1)
        end = self.teacher({"start": start}).out
        return {
            f"off_{steps}": float((Journey(module.flow, steps)(start) - end).abs().mean()) for steps in (1, 2, SHOWN)
        }
