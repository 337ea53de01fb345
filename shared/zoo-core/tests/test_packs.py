"""Packs: what a user gives to eval and train, as parquet or as a folder."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo_core.errors import InputError, UsageError
from zoo_core.io import packs

SUFFIXES = {".png", ".txt"}


def opened(path: Path) -> packs.Pack:
    return packs.open_pack(path, plain_column="hr", suffixes=SUFFIXES)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    rows = [{"name": f"n{i}", "hr": bytes([i]) * 5, "unused": "x"} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet", row_group_size=3)
    return tmp_path / "mine.parquet"


def test_a_parquet_pack_gives_its_rows_in_order(parquet: Path) -> None:
    pack = opened(parquet)
    assert (pack.name, pack.columns, pack.count) == ("mine", ("name", "hr", "unused"), 20)
    rows = list(pack.examples(["hr"]))
    assert [row["name"] for row in rows] == [f"n{i}" for i in range(20)]
    assert rows[7] == {"name": "n7", "hr": b"\x07" * 5}
    assert len(list(pack.examples(["hr"], limit=3))) == 3


def test_a_folder_of_files_fills_the_plain_column(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "README.md", ".hidden.png"):
        (tmp_path / name).write_bytes(name.encode())
    pack = opened(tmp_path)
    assert pack.columns == ("hr",)
    assert list(pack.examples(["hr"])) == [{"name": "a", "hr": b"a.PNG"}, {"name": "b", "hr": b"b.png"}]


def test_subfolders_are_columns_and_stems_are_rows(tmp_path: Path) -> None:
    for file in ("hr/a.png", "hr/b.png", "text/a.txt", "text/b.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(file)
    pack = opened(tmp_path)
    assert pack.columns == ("hr", "text")
    assert list(pack.examples(["hr", "text"]))[1] == {"name": "b", "hr": b"hr/b.png", "text": "text/b.txt"}
    (tmp_path / "text/b.txt").unlink()
    with pytest.raises(InputError, match=r"b\.png has no counterpart in the folder text"):
        list(opened(tmp_path).examples(["hr", "text"]))


def test_what_is_no_pack_is_named(tmp_path: Path, parquet: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        opened(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("this is no parquet file, however long it may be")
    with pytest.raises(InputError, match=r"text\.parquet is not a readable parquet file"):
        opened(tmp_path / "text.parquet")
    (tmp_path / "cut.parquet").write_bytes(parquet.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable parquet file"):
        opened(tmp_path / "cut.parquet")
    (tmp_path / "empty.parquet").touch()
    with pytest.raises(InputError, match="not a readable parquet file"):
        opened(tmp_path / "empty.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="holds no examples"):
        opened(tmp_path / "folder")
    pq.write_table(pa.table({"hr": pa.array([], pa.binary())}), tmp_path / "zero.parquet")
    with pytest.raises(InputError, match="holds no examples"):
        opened(tmp_path / "zero.parquet")
    with pytest.raises(InputError, match=r"no column 'lr_x4'.") as caught:
        list(opened(parquet).examples(["lr_x4"]))
    assert "name, hr, unused" in caught.value.remedy


def test_damage_in_the_middle_is_an_error_not_a_crash(parquet: Path) -> None:
    content = bytearray(parquet.read_bytes())
    content[4:200] = b"\xff" * 196
    parquet.write_bytes(content)
    with pytest.raises(InputError, match="not a readable parquet file"):
        list(opened(parquet).examples(["hr"]))


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="same stem"):
        opened(tmp_path)


def test_huge_cells_are_refused(tmp_path: Path, parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_CELL_BYTES", 4)
    with pytest.raises(InputError, match="the limit is 4"):
        list(opened(parquet).examples(["hr"]))
    (tmp_path / "a.png").write_bytes(b"12345")
    with pytest.raises(InputError, match="the limit is 4"):
        list(opened(tmp_path).examples(["hr"]))


def test_names_are_found_below_zoo_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_PACKS", str(tmp_path))
    (tmp_path / "sr/eval").mkdir(parents=True)
    (tmp_path / "sr/eval/set5.parquet").touch()
    assert packs.find_pack("set5", below="sr/eval") == tmp_path / "sr/eval/set5.parquet"
    assert packs.pack_paths(["sr/eval/set5.parquet"]) == [tmp_path / "sr/eval/set5.parquet"]
    with pytest.raises(UsageError, match="no pack 'set6'") as caught:
        packs.find_pack("set6", below="sr/eval")
    assert "'set5'" in caught.value.remedy
    monkeypatch.setenv("ZOO_PACKS", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError) as caught:
        packs.find_pack("set5", below="sr/eval")
    assert "ZOO_PACKS" in caught.value.remedy
