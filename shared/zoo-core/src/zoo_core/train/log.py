"""What a run writes down: `log.csv` and `eval.csv` always, TensorBoard events as an option."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.errors import MissingDependencyError, ZooError

GRADIENT_NORM = "gradient_norm"  # of all parameters together, before clipping; infinite if it is not a number


class Meter:
    """Collects the scalars of each step on the device, so that no step waits; reads them all at once.

    Args:
        describe: names the samples of a step, for the message about a NaN.
    """

    def __init__(self, describe: Callable[[int], str] | None = None) -> None:
        self._describe = describe
        self._steps: list[int] = []
        self._rows: list[Tensor] = []

    def add(self, step: int, values: Tensor) -> None:
        """Note the values of one step; they are copied."""
        self._steps.append(step)
        self._rows.append(values.clone())

    def means(self, names: Sequence[str] = ()) -> list[float]:
        """Return the mean of each value over the steps since the last call, and begin anew.

        A value beside the loss may be NaN in steps that do not compute it; those steps do not count.

        Args:
            names: of the values, for the message.

        Raises:
            ZooError: the loss of a step, or its gradient, is NaN or infinite; names the first one, its batch, and which
                values are so.
        """
        table = torch.stack(self._rows).cpu()
        bad = ~table[:, 0].isfinite()
        if GRADIENT_NORM in names:
            bad |= table[:, names.index(GRADIENT_NORM)].isinf()
        if bad.any():
            raise self._fault(int(bad.nonzero()[0]), table, names)
        self._steps.clear()
        self._rows.clear()
        return [float(value) for value in table.double().nanmean(dim=0)]

    def _fault(self, row: int, table: Tensor, names: Sequence[str]) -> ZooError:
        step, loss = self._steps[row], float(table[row, 0])
        place = f"at step {step}, batch {step}" + (f" (samples: {self._describe(step)})" if self._describe else "")
        if math.isfinite(loss):
            return ZooError(
                f"The gradient of the loss, {loss:.5g}, is NaN or infinite {place}.",
                "The newest checkpoint is from before. Look at the samples; torch.autograd.detect_anomaly around the "
                "step names the operation that did it.",
            )
        others = zip(names[1:], table[row, 1:].tolist(), strict=False)
        parts = [name for name, value in others if name != GRADIENT_NORM and not math.isfinite(value)]
        blame = f", of whose parts {', '.join(parts)} are not finite or were not computed" if parts else ""
        return ZooError(
            f"The loss is {loss} {place}{blame}.",
            "The newest checkpoint is from before. Lower the learning rate, set clip_norm, or look at the samples.",
        )

    def __len__(self) -> int:
        return len(self._rows)


class Table:
    """A CSV file that grows by rows with a step; after a resume the rows of steps that are repeated are gone.

    Args:
        path: the file.
        after: keep what is there up to this step; 0 begins a new file.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        self.path = path
        rows = [row for row in read_table(path) if row["step"] <= after] if after else []
        self.columns = list(rows[0]) if rows else []
        if rows:
            _rewrite(path, self.columns, rows)
        else:
            path.unlink(missing_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; columns that appear later are added for all rows."""
        fresh = [name for name in row if name not in self.columns]
        if fresh:
            self.columns += fresh
            _rewrite(self.path, self.columns, [*read_table(self.path), row])
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)


def read_table(path: Path) -> list[dict[str, float]]:
    """Return the rows of a table; a last row that a killed process left unfinished is dropped."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for row in csv.DictReader(io.StringIO(whole)):
        rows.append({key: float(value) if value else math.nan for key, value in row.items()})
    return rows


def _rewrite(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    aside = path.with_name(f".{path.name}")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            # nan means that the column came later
            writer.writerow({key: _plain(value) for key, value in row.items()})
    aside.replace(path)


def _plain(value: float) -> float | int | str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


class Journal:
    """All the logs of one run.

    Args:
        out: the run's folder.
        after: steps done before.
        tensorboard: also write events.

    Raises:
        MissingDependencyError: TensorBoard is asked for and not installed.
    """

    def __init__(self, out: Path, *, after: int, tensorboard: bool) -> None:
        self.training = Table(out / "log.csv", after=after)
        self.evaluation = Table(out / "eval.csv", after=after)
        self._events: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError(
                    "tensorboard=true needs TensorBoard.", "pip install tensorboard"
                ) from error
            self._events = SummaryWriter(str(out / "events"), purge_step=after)

    def train(self, step: int, row: dict[str, float]) -> None:
        """Note means since the last row, after `step` steps."""
        self._note(self.training, "train", step, row)

    def evaluate(self, step: int, metrics: dict[str, float]) -> None:
        """Note the metrics of the averaged weights after `step` steps."""
        self._note(self.evaluation, "eval", step, metrics)

    def _note(self, table: Table, group: str, step: int, row: dict[str, float]) -> None:
        try:
            table.add({"step": step, **row})
        except OSError as error:
            raise ZooError(
                f"{table.path} cannot be written ({error.strerror}).", "Free some space and resume."
            ) from error
        if self._events is not None:
            for name, value in row.items():
                self._events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """End the event file."""
        if self._events is not None:
            self._events.close()
