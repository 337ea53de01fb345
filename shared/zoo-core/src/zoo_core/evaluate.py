"""What an evaluation says: figures an example, means with intervals, paired differences, checks; a table, and JSON.

A package's `entry.evaluate` is a function of the type `Evaluate`; it measures by the protocol of its paper and returns
a Report. Everything here is arithmetic on figures that are there already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from zoo_core.catalog import CatalogEntry

_DRAWS = 10_000
_DRAWN_AT_ONCE = 1 << 22  # indices in memory


class Interval(NamedTuple):
    """Where a mean lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Way:
    """One line of the table: a way to do the task, and how well it does.

    Args:
        name: `ours` for the weights under test, else such as `paper`, `official`, `bicubic` or the name of a peer.
        metrics: metric -> figure over the whole set.
        values: metric -> one figure an example, in the order of the report; empty for figures out of print.
        seconds: what the way itself took for all examples; None for figures out of print.
        note: what a reader should know of it.
        weights: metric -> weight of each example in the mean, such as the words of a line; 1 where nothing is said.
        groups: a label an example; those of one label, such as a writer, are drawn together in resampling.
        answers: one an example, such as a text or a class, where two ways may agree; empty where answers are pictures.
    """

    name: str
    metrics: Mapping[str, float]
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float | None = None
    note: str = ""
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)
    groups: Sequence[str] = ()
    answers: Sequence[Any] = ()

    @staticmethod
    def of(
        name: str,
        values: Mapping[str, Sequence[float]],
        *,
        seconds: float | None = None,
        note: str = "",
        weights: Mapping[str, Sequence[float]] | None = None,
        groups: Sequence[str] = (),
    ) -> Way:
        """Make a way whose figures are the means over the examples; nan for a metric whose weights are all 0."""
        weights = weights or {}
        metrics = {metric: _mean(figures, weights.get(metric)) for metric, figures in values.items()}
        return Way(name, metrics, values, seconds, note, weights, groups)

    @property
    def intervals(self) -> dict[str, Interval]:
        """Bootstrap intervals of the means, for the metrics that have one figure an example."""
        return {
            metric: bootstrap_mean(figures, weights=self.weights.get(metric), groups=self.groups)
            for metric, figures in self.values.items()
        }


class Difference(NamedTuple):
    """Ours minus another way, example by example: the mean, its interval, and in how many examples it is negative.

    `p` is the bootstrap's two-sided p value of no difference: twice the share of the resampled means that lie on the
    other side of zero, at least 2 over their number.
    """

    mean: float
    low: float
    high: float
    negative: int
    p: float = math.nan


@dataclass(frozen=True)
class Check:
    """Something that must hold; `detail` says where it does not."""

    what: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people: title, and rows of cells, the first one its head; columns but the first hold figures."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Report:
    """The outcome of one evaluation.

    Args:
        model: id.
        dataset: name of the pack.
        protocol: how it was measured.
        names: of the examples, in order.
        ours: the weights under test.
        others: what they are compared with, in the order of the table.
        seconds: wall time of the whole evaluation.
        checks: what must hold.
        facts: device, precision, versions, fingerprints: what a reader needs to get the same figures.
        digits: metric -> digits after the point in the table (4 where nothing is said).
        shown: the metrics that the table shows; all if empty.
        more: figures of ours that are no metric of an example, such as speed; they stand beside the metrics in JSON.
        tables: what else people are shown, such as our figures by kind of example.
    """

    model: str
    dataset: str
    protocol: str
    names: tuple[str, ...]
    ours: Way
    others: tuple[Way, ...] = ()
    seconds: float = 0.0
    checks: tuple[Check, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    digits: Mapping[str, int] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.names)

    @property
    def metrics(self) -> Mapping[str, float]:
        """Our figures."""
        return self.ours.metrics

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One record an example: its name, and for each way its figures."""
        ways = [way for way in (self.ours, *self.others) if way.values]
        return [
            {"name": name, **{way.name: {metric: v[i] for metric, v in way.values.items()} for way in ways}}
            for i, name in enumerate(self.names)
        ]

    def differences(self, other: Way) -> dict[str, Difference]:
        """Compare with another way over the same examples, metric by metric; empty for figures out of print."""
        return {
            metric: paired(
                self.ours.values[metric], figures, weights=self.ours.weights.get(metric), groups=self.ours.groups
            )
            for metric, figures in other.values.items()
            if metric in self.ours.values
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it, our figures by their names at the top; what is not finite becomes None."""
        ways = {
            way.name: {
                "metrics": dict(way.metrics),
                "intervals": {metric: list(interval) for metric, interval in way.intervals.items()},
                "seconds": way.seconds,
                "note": way.note,
                "ours_minus_this": {metric: d._asdict() for metric, d in self.differences(way).items()},
            }
            for way in self.others
        }
        data = {
            "model": self.model,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "n": self.n,
            "seconds": round(self.seconds, 3),
            **self.metrics,
            **self.more,
            "intervals": {metric: list(interval) for metric, interval in self.ours.intervals.items()},
            "against": ways,
            "checks": [{"what": c.what, "passed": c.passed, "detail": c.detail} for c in self.checks],
            "facts": dict(self.facts),
            "rows": self.rows,
        }
        finite: dict[str, Any] = _finite(data)
        return finite

    def table(self) -> list[list[str]]:
        """Return the table as rows of cells, the first one its head; every column but the first holds figures."""
        decimals = {metric: self.digits.get(metric, 4) for metric in self.shown or self.metrics}
        head = ["way"]
        for metric in decimals:
            head += [metric, "95 % of the mean", "ours minus this"]
        return [head, *(self._line(way, decimals) for way in (*self.others, self.ours))]

    def _line(self, way: Way, decimals: Mapping[str, int]) -> list[str]:
        cells = [way.name]
        intervals, differences = way.intervals, {} if way is self.ours else self.differences(way)
        for metric, places in decimals.items():
            # figures out of print are shown with the digits that were printed
            known = metric in way.metrics
            cells.append(f"{way.metrics[metric]:.{places}f}" if known and way.values else _shortest(way, metric))
            interval = intervals.get(metric)
            cells.append(f"{interval.low:.{places}f} to {interval.high:.{places}f}" if interval else "")
            d = differences.get(metric)
            cells.append(f"{d.mean:+.{places}f} ({d.low:+.{places}f} to {d.high:+.{places}f})" if d else "")
        return cells


def beside(report: Report, teacher: Report) -> Report:
    """Return a report with another model, the teacher of a distillation, as one more way.

    What is kept of its figures (`retention`: ours over the teacher's, for each metric) and, where examples have
    answers, in how many both give the same (`agreement`) stand in JSON under `teachers` and in a table.

    Raises:
        ValueError: the reports are of different examples.
    """
    if report.names != teacher.names:
        raise ValueError(f"{report.model} and {teacher.model} were measured on different examples")
    theirs = teacher.ours
    retention = {
        metric: figure / theirs.metrics[metric]
        for metric, figure in report.metrics.items()
        if theirs.metrics.get(metric) and math.isfinite(figure / theirs.metrics[metric])
    }
    rows = [("", "ours / teacher"), *((metric, f"{kept:.4f}") for metric, kept in retention.items())]
    told: dict[str, Any] = {"retention": retention}
    pairs = list(zip(report.ours.answers, theirs.answers, strict=False))
    if pairs and len(pairs) == report.n:
        told["agreement"] = sum(a == b for a, b in pairs) / len(pairs)
        rows.append(("same answer", f"{told['agreement']:.4f}"))
    return replace(
        report,
        others=(*report.others, replace(theirs, name=teacher.model)),
        seconds=report.seconds + teacher.seconds,
        more={**report.more, "teachers": {**report.more.get("teachers", {}), teacher.model: told}},
        tables=(*report.tables, Table(f"beside its teacher {teacher.model}", tuple(rows))),
        facts={**report.facts, f"teacher {teacher.model}": dict(teacher.facts)},
    )


class Evaluate(Protocol):
    """The function that `entry.evaluate` names; `zoo eval` passes exactly these.

    A model whose manifest names `entry.evaluate_options` gets `options` as well: an object of that class.
    """

    def __call__(
        self,
        entry: CatalogEntry,
        data: str | None,
        *,
        weights: Path | None = None,
        official: Path | None = None,
        against: Sequence[str] = (),
        protocol: str | None = None,
        device: str = "auto",
        precision: str = "fp32",
        limit: int | None = None,
        offline: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Measure a model.

        Args:
            entry: the model.
            data: path of a pack (parquet or folder), or the name of one below ZOO_PACKS; None only where
                the model's own options say what is measured instead.
            weights: a file instead of the published weights.
            official: the authors' weights (safetensors), measured beside ours.
            against: names of peers to measure beside ours.
            protocol: one of the package's protocols; its first by default.
            device: auto, cpu, cuda.
            precision: one of the manifest's.
            limit: only the first examples.
            offline: ask no network for weights.
            progress: told how many examples are done, of how many.
        """
        ...


def bootstrap_mean(
    values: Sequence[float],
    seed: int = 0,
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence[str] = (),
) -> Interval:
    """Return where the mean lies with 95 % confidence: percentiles of the means of 10,000 resamplings of the examples.

    With few examples it is too narrow (with 5, one true mean in six lies outside), yet it says more than none. It is
    (nan, nan) if there are no values, or some that are not finite.

    Args:
        values: one figure an example.
        seed: of the resampling.
        weights: of each example in the mean; 1 by default.
        groups: a label an example; whole groups are resampled. By default each example is its own.
    """
    means = _resampled(values, seed, weights, groups)
    if means is None:
        return Interval(math.nan, math.nan)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


def paired(
    ours: Sequence[float],
    theirs: Sequence[float],
    seed: int = 0,
    *,
    weights: Sequence[float] | None = None,
    groups: Sequence[str] = (),
) -> Difference:
    """Compare two ways on the same examples: what is hard for both cancels, so it tells more than two intervals do.

    Args:
        ours: one figure an example.
        theirs: the other way's.
        seed: of the resampling.
        weights: as in `bootstrap_mean`.
        groups: as in `bootstrap_mean`.

    Raises:
        ValueError: not as many figures on both sides.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} figures cannot be paired with {len(theirs)}")
    # equal infinities (both exact) differ by nothing
    each = np.array([0.0 if a == b else a - b for a, b in zip(ours, theirs, strict=True)])
    means = _resampled(each.tolist(), seed, weights, groups)
    mean, negative = _mean(each.tolist(), weights), int((each < 0).sum())
    if means is None:
        return Difference(mean, math.nan, math.nan, negative)
    low, high = np.percentile(means, [2.5, 97.5])
    other_side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(mean, float(low), float(high), negative, min(1.0, 2 * max(other_side, 1) / len(means)))


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float:
    if weights is None:
        return float(np.mean(values)) if len(values) else math.nan
    total = float(np.sum(weights))
    return float(np.dot(values, weights)) / total if total else math.nan


def _resampled(
    values: Sequence[float], seed: int, weights: Sequence[float] | None, groups: Sequence[str]
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Return the means of all resamplings; None where there is nothing to resample."""
    figures = np.asarray(values, dtype=np.float64)
    shares = np.ones(len(figures)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(figures) or not np.isfinite(figures).all() or not shares.sum():
        return None
    sums = figures * shares
    if len(groups):
        labels = np.unique(np.asarray(groups), return_inverse=True)[1]
        sums, shares = (np.bincount(labels, each).astype(np.float64) for each in (sums, shares))
    rng = np.random.default_rng(seed)
    at_once = max(1, min(_DRAWS, _DRAWN_AT_ONCE // len(sums)))
    means = []
    for first in range(0, _DRAWS, at_once):
        drawn = rng.integers(0, len(sums), (min(at_once, _DRAWS - first), len(sums)))
        total = shares[drawn].sum(axis=1)
        # a draw without any weight, as of empty lines alone, has no mean
        means.append(sums[drawn].sum(axis=1)[total > 0] / total[total > 0])
    return np.concatenate(means)


def _shortest(way: Way, metric: str) -> str:
    return f"{way.metrics[metric]:g}" if metric in way.metrics else ""


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
