"""Reports: the table that a user reads and the JSON that a program reads say the same, and say it honestly."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from zoo_core.evaluate import Check, Report, Way, beside, bootstrap_mean, paired


@pytest.fixture
def report() -> Report:
    return Report(
        model="tiny-x4",
        dataset="three",
        protocol="plain",
        names=("a", "b", "c"),
        ours=Way.of("ours", {"psnr": [30.0, 32.0, 34.0]}, seconds=0.5),
        others=(Way("paper", {"psnr": 32.21}), Way.of("old", {"psnr": [29.0, 33.0, 30.0]})),
        seconds=1.25,
        checks=(Check("never worse than old", False, "b: 32.00 below 33.00"),),
        facts={"device": "cpu"},
        digits={"psnr": 3},
    )


def test_json_has_our_figures_at_the_top_and_every_example(report: Report) -> None:
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert (data["psnr"], data["n"], data["seconds"], data["protocol"]) == (32.0, 3, 1.25, "plain")
    assert data["rows"][1] == {"name": "b", "ours": {"psnr": 32.0}, "old": {"psnr": 33.0}}
    assert data["against"]["old"]["ours_minus_this"]["psnr"]["negative"] == 1
    assert data["against"]["paper"]["metrics"] == {"psnr": 32.21}
    assert data["checks"] == [{"what": "never worse than old", "passed": False, "detail": "b: 32.00 below 33.00"}]
    assert not report.passed


def test_the_table_shows_printed_figures_as_printed_and_ours_last(report: Report) -> None:
    head, *lines = report.table()
    assert all(len(line) == len(head) for line in lines)
    assert [line[:2] for line in lines] == [["paper", "32.21"], ["old", "30.667"], ["ours", "32.000"]]
    assert lines[0][2:] == ["", ""]  # print has no spread
    assert lines[1][3].startswith("+1.333 (")
    assert lines[2][2] == "30.000 to 34.000"


def test_a_teacher_stands_beside_with_what_is_kept_of_it(report: Report) -> None:
    theirs = Way.of("ours", {"psnr": [31.0, 33.0, 36.0], "other": [0.0, 0.0, 0.0]})
    teacher = Report("large-x4", "three", "plain", ("a", "b", "c"), theirs, seconds=2.0)
    both = beside(report, teacher)
    data = json.loads(json.dumps(both.as_dict(), allow_nan=False))
    assert data["teachers"] == {"large-x4": {"retention": {"psnr": pytest.approx(32 / (100 / 3))}}}
    assert data["against"]["large-x4"]["ours_minus_this"]["psnr"]["mean"] == pytest.approx(-4 / 3)
    assert (both.seconds, len(both.table())) == (3.25, 5)
    answered = replace(report, ours=replace(report.ours, answers=("x", "y", "z")))
    told = beside(answered, replace(teacher, ours=replace(theirs, answers=("x", "y", "a"))))
    assert told.more["teachers"]["large-x4"]["agreement"] == pytest.approx(2 / 3)
    assert told.tables[-1].rows[-1] == ("same answer", "0.6667")
    with pytest.raises(ValueError, match="different examples"):
        beside(report, replace(teacher, names=("a", "b", "d")))


def test_what_is_not_finite_is_null_in_json() -> None:
    report = Report("m", "d", "p", ("a", "b"), Way.of("ours", {"psnr": [math.inf, 30.0]}))
    data = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert data["psnr"] is None
    assert data["rows"][0]["ours"]["psnr"] is None


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = sum(low <= 5 <= high for low, high in (bootstrap_mean(rng.normal(5, 2, 40).tolist(), s) for s in range(200)))
    assert 178 <= hits <= 199  # 95 %, a little fewer at 40 examples


def test_intervals_are_reproducible_and_bounded_in_memory() -> None:
    values = np.random.default_rng(1).normal(size=5000).tolist()
    first, again = bootstrap_mean(values, 3), bootstrap_mean(values, 3)
    assert first == again
    assert first.high - first.low == pytest.approx(2 * 1.96 / math.sqrt(5000), rel=0.05)  # the normal approximation
    assert bootstrap_mean([2.5]) == (2.5, 2.5)
    assert all(math.isnan(bound) for bound in (*bootstrap_mean([]), *bootstrap_mean([1.0, math.inf])))


def test_pairs_cancel_what_both_find_hard() -> None:
    hard = np.random.default_rng(2).normal(30, 5, 50)
    difference = paired((hard + 0.1).tolist(), hard.tolist())
    assert difference.mean == pytest.approx(0.1)
    assert difference.high - difference.low < 1e-9
    assert difference.negative == 0
    assert paired([math.inf, 1.0], [math.inf, 2.0])[0] == -0.5
    with pytest.raises(ValueError, match="cannot be paired"):
        paired([1.0], [1.0, 2.0])


def test_weights_make_a_mean_of_means_one_over_all() -> None:
    """A rate over words is not the mean of the rates of lines: a line of nine words weighs nine times one of one."""
    way = Way.of("ours", {"wer": [1.0, 0.0, 0.7]}, weights={"wer": [1, 9, 0]})
    assert way.metrics == {"wer": pytest.approx(0.1)}
    interval = bootstrap_mean([1.0, 0.0], weights=[1, 9])
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert all(math.isnan(bound) for bound in bootstrap_mean([1.0], weights=[0]))
    assert bootstrap_mean([1.0, 2.0, 4.0]) == bootstrap_mean([1.0, 2.0, 4.0], weights=[1, 1, 1])


def test_groups_are_drawn_whole() -> None:
    """Twenty lines of each of ten hands say as much of other hands as ten figures do, not as two hundred."""
    rng = np.random.default_rng(3)
    hands = rng.normal(10, 2, 10)
    lines = np.repeat(hands, 20) + rng.normal(0, 0.1, 200)
    labels = [f"hand {i // 20}" for i in range(200)]
    of_lines, of_hands = bootstrap_mean(lines.tolist()), bootstrap_mean(lines.tolist(), groups=labels)
    few = bootstrap_mean(hands.tolist())
    assert of_hands.high - of_hands.low == pytest.approx(few.high - few.low, rel=0.1)
    assert of_hands.high - of_hands.low > 3 * (of_lines.high - of_lines.low)


def test_a_difference_says_how_surprising_it_is() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1, 60)
    assert paired(noise.tolist(), [0.0] * 60).p > 0.05
    assert paired((noise + 1).tolist(), [0.0] * 60).p == pytest.approx(2 / 10_000)
    labels = [str(i % 2) for i in range(60)]
    assert paired((noise + 1).tolist(), [0.0] * 60, groups=labels).negative == int((noise + 1 < 0).sum())


def test_a_report_shows_some_metrics_and_gives_all() -> None:
    ways = {"cer": [0.5], "wer": [1.0]}
    report = Report("m", "d", "p", ("a",), Way.of("ours", ways), shown=("cer",), more={"lines": 1})
    assert report.table()[0] == ["way", "cer", "95 % of the mean", "ours minus this"]
    data = report.as_dict()
    assert (data["wer"], data["lines"]) == (1.0, 1)
