"""Fill the cache of a teacher's outputs, and say how far it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing

from zoo_core.train.task import FillsCache

LOG = logging.getLogger("zoo_core.train")

TOLD_SECONDS = 10.0  # between two lines about it


def filled(task: FillsCache, stopping: Callable[[int], bool]) -> tuple[int, int]:
    """Fill a task's cache until it is full or there is reason to stop; what is there already stays.

    Args:
        task: whose cache.
        stopping: whether to stop, given the number of samples that are done.

    Returns:
        how many samples are done, and of how many.
    """
    done, count, told = 0, 0, time.monotonic()
    with closing(task.fill_cache()) as filling:  # what was taken in is written also where it stops
        for done, count in filling:
            if time.monotonic() - told > TOLD_SECONDS:
                LOG.info("the teacher's outputs of %d of %d samples are there", done, count)
                told = time.monotonic()
            if stopping(done):
                break
    return done, count
