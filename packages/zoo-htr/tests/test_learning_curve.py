"""Parts of a pack are nested and keep hands whole; the curve through their results is a power law."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo_core.errors import UsageError
from zoo_htr.learning_curve import kept, power_law

ROWS = [
    {"corpus": c, "writer": f"{c}{i % n}", "document": f"d{i % 7}", "text": "abc", "image": b"x"}
    for c, n in (("many", 20), ("two", 2), ("one", 1))
    for i in range(40)
]


def test_shares_are_nested_and_hold_whole_hands_of_every_corpus() -> None:
    before: set[int] = set()
    for share in (0.125, 0.25, 0.5, 1.0):
        mask = kept(ROWS, share)
        now = {i for i, inside in enumerate(mask) if inside}
        assert before <= now
        assert {ROWS[i]["corpus"] for i in now} == {"many", "two", "one"}
        hands = {(ROWS[i]["corpus"], ROWS[i]["writer"]) for i in now if ROWS[i]["corpus"] != "one"}
        whole = {i for i, row in enumerate(ROWS) if (row["corpus"], row["writer"]) in hands}
        assert whole == {i for i in now if ROWS[i]["corpus"] != "one"}
        before = now
    assert len(before) == len(ROWS)
    some = [row for row, inside in zip(ROWS, kept(ROWS, 0.25), strict=True) if inside and row["corpus"] == "one"]
    assert len({row["document"] for row in some}) == 2  # of 7: one hand is parted by documents


def test_a_power_law_is_found_again() -> None:
    sizes = [1e4, 2e4, 1e5]
    assert power_law(sizes, [3 * n**-0.4 for n in sizes]) == pytest.approx((3, 0.4))
    for bad in ([0.1], [0.1, 0.0, 0.2]):
        with pytest.raises(UsageError, match="two reports"):
            power_law(sizes[: len(bad)], bad)


def test_the_commands_cut_and_show(tmp_path: Path) -> None:
    pack = tmp_path / "all.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), pack)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "zoo_htr.learning_curve", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    done = run("cut", str(pack), "--share", "0.25", "-o", "part.parquet", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "part.parquet").num_rows == json.loads(done.stdout)["lines"] < len(ROWS)
    for name, cer in (("all", 0.1), ("part", 0.2)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"cer": cer, "intervals": {"cer": [cer, cer]}}))
    done = run("show", "all.parquet=all.json", "part.parquet=part.json")
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines()[1:]] == ["20.00", "10.00"]
    assert "twice as many" in done.stderr
