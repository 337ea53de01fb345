"""Stages: what trains, on what objective, for how long; and players, who take turns (distill spec 3.9).

Steps are counted through all stages, so that schedules, averages and the order of the data go on over a boundary.
`zoo_core.train.stages` runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch.distributed
from torch import nn

from zoo_core.distill.objective import Objective
from zoo_core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Plateau:
    """The end of a stage: a metric has not become better for some evaluations.

    Args:
        metric: of the task's evaluation.
        patience: evaluations without a new best, after which the stage ends.
        higher: whether higher is better.
        least: how much better counts.
    """

    metric: str
    patience: int
    higher: bool = True
    least: float = 0.0

    def reached(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether it is so after these evaluations.

        Raises:
            UsageError: there is no such metric.
        """
        if history and self.metric not in history[-1]:
            raise UsageError(f"There is no metric {self.metric!r}.", did_you_mean(self.metric, history[-1]))
        best, since = None, 0
        for metrics in history:
            value = metrics[self.metric] if self.higher else -metrics[self.metric]
            if best is None or value > best + self.least:
                best, since = value, 0
            else:
                since += 1
        return since >= self.patience


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a run.

    Args:
        name: of its folder; letters, digits, - and _.
        steps: how many, at most.
        objective: what is minimised.
        until: may end it earlier.
        train: globs of parameter names that train; see `Student.trains`.
        freeze: globs of those that do not.
        optimizer: whether it begins anew or goes on with the state of the stage before.
    """

    name: str
    steps: int
    objective: Objective | None = None
    until: Plateau | None = None
    train: tuple[str, ...] = ("*",)
    freeze: tuple[str, ...] = ()
    optimizer: Literal["new", "keep"] = "new"

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(
                f"{self.name!r} with {self.steps} steps is no stage.", "Name it like warm-up, steps above 0."
            )


class Players:
    """Modules that train in turn, by a fixed cycle of the global step: a critic five times, a generator once.

    Two speeds of learning are numbers here. In a turn only the player's own parameters take gradients; as optimisers
    leave parameters without a gradient alone, one optimiser with a parameter group for each player serves all.

    Args:
        cycle: player -> turns, in this order.
    """

    def __init__(self, cycle: Mapping[str, int]) -> None:
        self.cycle = dict(cycle)
        if not self.cycle or min(self.cycle.values()) < 1:
            raise UsageError(f"{self.cycle} is no cycle of turns.", "Give each player one turn or more.")
        self._turns = [name for name, turns in self.cycle.items() for _ in range(turns)]

    def turn(self, step: int) -> str:
        """Return whose turn step number `step` is."""
        return self._turns[step % len(self._turns)]

    @contextmanager
    def at(self, step: int, modules: Mapping[str, nn.Module]) -> Iterator[str]:
        """Inside, only the parameters of the player whose turn it is take gradients; compute the loss there.

        Args:
            step: the global step.
            modules: each player's; all parameters in them train.

        Raises:
            UsageError: in several processes, where DDP waits for the gradients of all.
        """
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise UsageError("Players take turns in one process only.", "Train on one device.")
        name = self.turn(step)
        for player in self.cycle:
            modules[player].requires_grad_(player == name)
        try:
            yield name
        finally:
            for player in self.cycle:
                modules[player].requires_grad_(True)
