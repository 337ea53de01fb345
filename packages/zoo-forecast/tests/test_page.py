"""The page on forecasting, followed to the letter: what needs weights runs here, with those of a tiny network."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from tiny_aurora import TINY, tiny_aurora

from zoo_core.cli.main import main
from zoo_core.weights.build import CONFIG
from zoo_core.weights.files import write_tensors
from zoo_forecast.backtest import command
from zoo_forecast.forecaster import Forecaster

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/forecast.md"
BLOCK = re.compile(
    r"<!-- not run: needs weights -->\n```(?P<kind>sh|python)\n(?P<code>.*?)```\n(?:\n```text\n(?P<prints>.*?)```)?",
    re.DOTALL,
)


def run(line: str) -> None:
    program, *words = shlex.split(line)
    if words[:2] == ["weights", "convert"]:
        return  # of the authors' checkpoint, see test_convert.py
    if program == "zoo":
        with pytest.raises(SystemExit) as ended:
            main(words)
    else:
        assert words[:2] == ["-m", "zoo_forecast.backtest"]
        with pytest.raises(SystemExit) as ended:
            main(words[2:], command=command)
    assert not ended.value.code, line


@pytest.mark.filterwarnings("ignore:item '.*'. the covariates explain nothing that lasts")
def test_every_block_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = list(BLOCK.finditer(PAGE.read_text()))
    assert len(blocks) >= 6
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    write_tensors(tmp_path / "aurora-base.safetensors", tiny_aurora().state_dict(), {CONFIG: json.dumps(TINY)})
    monkeypatch.chdir(tmp_path)
    # the page opens one that needs no weights first; texts need the towers of this one
    names: dict[str, object] = {"forecaster": Forecaster.load("aurora-base", weights="aurora-base.safetensors")}
    for block in blocks:
        if block["kind"] == "sh":
            for line in block["code"].replace("\\\n", " ").splitlines():
                run(line)
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(block["code"], names)  # noqa: S102 - our own page
            assert printed.getvalue() == (block["prints"] or "")
    made = {path.name for path in (tmp_path / "out").iterdir()} | {path.name for path in tmp_path.glob("*.html")}
    assert made == {"sales_forecast.csv", "sales_forecast.png", "sales_priced.csv", "sales_priced.png", "backtest.html"}
