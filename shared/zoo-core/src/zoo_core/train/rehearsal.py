"""The dry run: what a step, an evaluation and the whole run take."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from zoo_core.nn.structure import tensors_in
from zoo_core.train.hardware import peak_memory_bytes, wait_for
from zoo_core.train.pace import duration
from zoo_core.train.recipe import TrainRecipe

LOG = logging.getLogger("zoo_core.train")

MOST_STEPS = 50  # with batches of several shapes, or as many as
MOST_SECONDS = 15.0  # allow


def rehearsed(
    recipe: TrainRecipe,
    device: torch.device,
    *,
    make: Callable[[int], Any],
    advance: Callable[[int, Any], None],
    evaluate: Callable[[], object],
) -> dict[str, float]:
    """Run one step that sets everything up, two or more that are timed, and one evaluation.

    Where batches have several shapes, their steps cost more or less: then one step of each shape sets up, if anything
    is compiled or captured for it, and as many steps as fit into some seconds are timed.

    Args:
        recipe: of the run.
        device: that is waited for.
        make: step -> batch.
        advance: takes a step with a batch.
        evaluate: as the run does it on its way.

    Returns:
        setup_seconds, step_seconds, step_memory_bytes, eval_seconds, whole_run_seconds.
    """

    def timed(steps: Iterable[int], *, at_most_seconds: float = math.inf) -> tuple[float, int]:
        begin, count = time.perf_counter(), 0
        for count, step in enumerate(steps, start=1):
            advance(step, make(step))
            wait_for(device)
            if count >= 2 and time.perf_counter() - begin > at_most_seconds:
                break
        return time.perf_counter() - begin, count

    def shapes(step: int) -> tuple[torch.Size, ...]:
        return tuple(tensor.shape for tensor in tensors_in(make(step)))

    setting_up, several = [0], len({shapes(step) for step in range(3)}) > 1
    if several and (recipe.compile or recipe.graph):
        first_of: dict[Any, int] = {}
        for step in range(MOST_STEPS):
            first_of.setdefault(shapes(step), step)
        setting_up = list(first_of.values())
    setup_seconds, _ = timed(setting_up)
    whole_seconds, count = timed(range(1, (MOST_STEPS if several else 2) + 1), at_most_seconds=MOST_SECONDS)
    step_seconds = whole_seconds / count
    memory = peak_memory_bytes(device)
    begin = time.perf_counter()
    evaluate()
    eval_seconds = time.perf_counter() - begin
    whole_run = setup_seconds + recipe.steps * step_seconds + -(-recipe.steps // recipe.eval_every) * eval_seconds
    LOG.info(
        "dry run: %.4g s and %.0f MB a step, %.3g s an evaluation; the whole run would take %s",
        step_seconds, memory / 1e6, eval_seconds, duration(whole_run),
    )  # fmt: skip
    return {
        "setup_seconds": setup_seconds,
        "step_seconds": step_seconds,
        "step_memory_bytes": memory,
        "eval_seconds": eval_seconds,
        "whole_run_seconds": whole_run,
    }
