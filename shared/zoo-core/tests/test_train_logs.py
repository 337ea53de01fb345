"""Logs and curves of a run."""

from __future__ import annotations

import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from train_parts import Line, line_recipe

from zoo_core.errors import MissingDependencyError
from zoo_core.train import fit
from zoo_core.train.curves import draw_curves
from zoo_core.train.log import Table, read_table


def test_a_table_forgets_what_is_repeated_and_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = Table(path, after=0)
    for step in range(1, 5):
        table.add({"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write("5,0.")  # killed here
    table = Table(path, after=3)
    table.add({"step": 4, "loss": 0.5, "extra": 7.5})
    read = read_table(path)
    assert [row["step"] for row in read] == [1, 2, 3, 4]
    assert [row["loss"] for row in read] == [1, 1 / 2, 1 / 3, 0.5]
    assert math.isnan(read[0]["extra"])
    assert read[3]["extra"] == 7.5
    assert Table(path, after=0).columns == []
    assert read_table(path) == []


def test_tensorboard_is_named_when_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = line_recipe(tensorboard=True)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        fit(Line(recipe), recipe, tmp_path / "run")


def test_curves_are_well_formed(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    losses, metrics = Table(tmp_path / "log.csv", after=0), Table(tmp_path / "eval.csv", after=0)
    for step in range(1, 9):
        losses.add({"step": step, "loss": 10.0**-step, "a<b": 1.0, "learning_rate": 0.1})
    metrics.add({"step": 8, "psnr": 30.0})
    path = draw_curves(tmp_path)
    assert path is not None
    text = path.read_text()
    lines = ET.fromstring(text).findall("{*}polyline")  # noqa: S314 (our own text)
    assert len(lines) == 3  # the learning rate is no curve
    assert "loss (logarithmic)" in text
    assert "nan" not in text
