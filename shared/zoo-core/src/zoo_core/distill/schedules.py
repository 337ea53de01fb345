"""Schedules: pure functions of the global step, so that nothing of them needs saving.

A weight, a temperature or a ratio may be a number or one of these. They are values: comparable, hashable, told in a run
record by their text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from zoo_core.errors import UsageError


@dataclass(frozen=True)
class Constant:
    """Always `value`."""

    value: float

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        return self.value


@dataclass(frozen=True)
class Ramp:
    """From `first` at step `start` to `last` at step `end`, on a line or half a cosine; constant before and after."""

    first: float
    last: float
    start: int
    end: int
    cosine: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise UsageError(f"A ramp from step {self.start} to step {self.end} goes nowhere.", "Let it end later.")

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        way = min(max((step - self.start) / (self.end - self.start), 0.0), 1.0)
        if way in (0.0, 1.0):  # exactly the numbers given
            return self.first if way == 0.0 else self.last
        if self.cosine:
            way = (1 - math.cos(math.pi * way)) / 2
        return self.first + (self.last - self.first) * way


@dataclass(frozen=True)
class Steps:
    """`first`, and from each of `changes` = ((step, value), ...) on that value."""

    first: float
    changes: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if list(self.changes) != sorted(self.changes) or not self.changes:
            raise UsageError("The steps of a schedule must rise.", "Write (step, value) pairs in order.")

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        return next((value for begin, value in reversed(self.changes) if step >= begin), self.first)


Schedule: TypeAlias = Constant | Ramp | Steps


def const(value: float) -> Constant:
    """Always `value`."""
    return Constant(value)


def linear(first: float, last: float, start: int, end: int) -> Ramp | Constant:
    """On a line from `first` at step `start` to `last` at step `end`; of equal ends, a constant."""
    return Ramp(first, last, start, end) if first != last else Constant(first)


def cosine(first: float, last: float, start: int, end: int) -> Ramp:
    """On half a cosine from `first` at step `start` to `last` at step `end`."""
    return Ramp(first, last, start, end, cosine=True)


def steps(first: float, *changes: tuple[int, float]) -> Steps:
    """`first`, then from each given step on the value beside it."""
    return Steps(first, changes)


def after(step: int, value: float = 1.0) -> Steps:
    """0 before a step, `value` from it on."""
    return Steps(0.0, ((step, value),))


def at(value: float | Schedule, step: int) -> float:
    """Return a number, or what a schedule says at a step."""
    return value if isinstance(value, int | float) else value(step)
