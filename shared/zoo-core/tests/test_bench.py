"""Paired timings: what is compared with what, what is said of a way that fails, and when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from zoo_core.bench import BenchReport, Limits, Way, compare
from zoo_core.errors import UsageError

CPU = torch.device("cpu")
NEAR = Limits(most=0.1, share=1.0, rms=0.1)


def way(name: str, run: Callable[[], float]) -> Way:
    return Way(name, run, lambda value: np.full(3, value), NEAR)


def failing() -> float:
    raise AssertionError("no such kernel")


def bench(*ways: Way, rounds: int = 2, **options: object) -> BenchReport:
    return compare(ways, model="m", size="s", device=CPU, rounds=rounds, **options)  # type: ignore[arg-type]


def test_the_first_way_is_the_reference_and_one_that_differs_is_not_timed() -> None:
    report = bench(
        way("a", lambda: 1.0), way("near", lambda: 1.05), way("far", lambda: 2.0), way("nan", lambda: np.nan)
    )
    assert [len(timing.seconds) for timing in report.timings] == [2, 2, 0, 0]
    assert not report.agrees
    assert "DIFFERS from a" in report.text()


def test_a_reference_of_its_own_is_run_once_and_judges_the_first_way_too() -> None:
    runs = []
    slow = way("truth", lambda: runs.append(1) or 1.0)  # type: ignore[func-returns-value]
    report = bench(way("wrong", lambda: 2.0), way("right", lambda: 1.0), reference=slow)
    assert len(runs) == 1
    assert [timing.agrees for timing in report.timings] == [False, True]
    assert report.timings[1].ratios == (1.0, 1.0), "to the first way that is timed"


def test_a_way_that_fails_is_said_and_the_others_run() -> None:
    report = bench(way("a", lambda: 1.0), way("b", failing))
    assert report.not_run[0].name == "b"
    assert "no such kernel" in report.not_run[0].why
    assert report.agrees
    with pytest.raises(AssertionError, match="no such kernel"):
        bench(way("b", failing))


def test_what_stands_between_runs_is_not_timed() -> None:
    calls = []

    def between() -> None:
        calls.append(1)
        time.sleep(0.02)

    report = bench(way("a", lambda: 1.0), way("b", lambda: 1.0), rounds=3, between=between)
    assert len(calls) == 6
    assert min(report.timings[0].seconds + report.timings[1].seconds) < 0.02


def test_it_ends_when_the_time_is_over() -> None:
    report = bench(way("a", lambda: time.sleep(0.01) or 1.0), rounds=1000, at_most=0.05)  # type: ignore[func-returns-value]
    assert 1 <= len(report.timings[0].seconds) < 100
    with pytest.raises(UsageError, match="one round"):
        bench(rounds=1)
