"""How fast a run goes."""

from __future__ import annotations

import time


class Pace:
    """Seconds a step, without what evaluations and saves took."""

    def __init__(self, done: int) -> None:
        self.done, self.since, self.last = done, time.perf_counter(), 0.0

    def lap(self, done: int) -> float:
        """Return seconds a step since the last lap or skip."""
        if done > self.done:
            self.last = (time.perf_counter() - self.since) / (done - self.done)
        self.done, self.since = done, time.perf_counter()
        return self.last

    def skip(self) -> None:
        """Leave out the time until now: no training happened."""
        self.since = time.perf_counter()


def duration(seconds: float) -> str:
    """Return `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
