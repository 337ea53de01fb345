"""Runs that go through stages: each a run in a folder of its own that begins where the one before ended.

The last stage runs in the run's own folder, so that weights and record lie where they always do; the others in
`stage-1-NAME`, `stage-2-NAME`, ... below, whose last checkpoints are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.errors import UsageError
from zoo_core.train.loop import Resume, fit
from zoo_core.train.recipe import TrainRecipe
from zoo_core.train.record import RunRecord
from zoo_core.train.task import Task

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from zoo_core.distill.stages import Stage


def fit_stages(
    stages: Sequence[Stage],
    task: Callable[[Stage], Task],
    recipe: TrainRecipe,
    out: Path,
    *,
    resume: Resume = "auto",
    dry_run: bool = False,
    fabric: Fabric | None = None,
) -> RunRecord:
    """Train through stages; called again, it goes on where it was stopped, in whatever stage that was.

    Args:
        stages: one or more, of different names; their steps add up to the recipe's.
        task: makes a stage's task, with a module of the same state dict each time; its weights are then those that the
            stage before ended with.
        recipe: of the whole run; its time limit, too, is for the whole.
        out: the folder.
        resume: as for `fit`.
        dry_run: rehearse the first stage.
        fabric: as for `fit`.

    Returns:
        the record of the last stage that has run.

    Raises:
        UsageError: the stages do not add up.
    """
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names) or sum(s.steps for s in stages) != recipe.steps:
        raise UsageError(
            f"The stages {', '.join(f'{s.name} ({s.steps} steps)' for s in stages) or 'none'} do not make up "
            f"steps={recipe.steps}.",
            "Give them different names, and steps that add up.",
        )
    started, done, before = time.monotonic(), 0, None
    for number, stage in enumerate(stages, start=1):
        folder = out if number == len(stages) else out / f"stage-{number}-{stage.name}"
        keys: dict[str, Any] = {"steps": done + stage.steps}
        if recipe.time_limit_minutes is not None:
            keys["time_limit_minutes"] = max(recipe.time_limit_minutes - (time.monotonic() - started) / 60, 1e-9)
        record = fit(
            task(stage), recipe.model_copy(update=keys), folder, resume=resume, dry_run=dry_run, fabric=fabric,
            after=before, keep_optimizer=stage.optimizer == "keep", until=stage.until.reached if stage.until else None,
        )  # fmt: skip
        if record.status != "finished":
            return record
        done, before = record.steps, folder
    return record
