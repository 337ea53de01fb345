"""Packs: sets of examples with named columns, as a parquet file or as a folder. Every `eval` and `train` takes either.

A folder is a pack in one of two forms. Subfolders are columns, and files of equal stem are one example:
`mine/hr/a.png`, `mine/lr_x4/a.png`. Or the files lie in the folder itself and fill one column, which the reader names.
Either way an example has a `name`, from the column of that name or from the stem. Files are bytes, `.txt` files text.

Packs by name are looked for below ZOO_PACKS.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from zoo_core.errors import InputError, UsageError, did_you_mean

Example: TypeAlias = dict[str, Any]

MAX_CELL_BYTES = 256 * 2**20  # of one image, page or text
MAX_ROW_GROUP_BYTES = 4 * 2**30  # what parquet may make us hold at once, uncompressed
_ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class Pack:
    """A pack that has been opened: its columns are known, its content is not read yet.

    Args:
        path: the parquet file or the folder.
        columns: in the order of the file; a folder's by name.
        count: number of examples.
    """

    path: Path
    columns: tuple[str, ...]
    count: int
    _files: dict[str, dict[str, Path]] | None = None  # of a folder: stem -> column -> file

    @property
    def name(self) -> str:
        """The file name without its extension."""
        return self.path.name.removesuffix(".parquet")

    def examples(self, columns: Collection[str], *, limit: int | None = None) -> Iterator[Example]:
        """Read examples one by one, a few in memory at a time.

        Args:
            columns: which to read; `name` comes along in any case.
            limit: stop after so many.

        Raises:
            InputError: a column is missing, the pack is damaged, or a cell is larger than `MAX_CELL_BYTES`.
        """
        missing = [column for column in columns if column not in self.columns]
        if missing:
            raise InputError(
                f"{self.path} has no column {missing[0]!r}.", f"Its columns are {', '.join(self.columns) or 'none'}."
            )
        rows = _from_parquet(self, columns) if self._files is None else _from_folder(self._files, columns)
        for index, row in enumerate(rows):
            if limit is not None and index >= limit:
                return
            row.setdefault("name", str(index))
            yield row


def packs_root() -> Path | None:
    """Return the folder of the packs: ZOO_PACKS, or `../shared/data` of a source checkout; None if there is neither."""
    named = os.environ.get("ZOO_PACKS")
    if named:
        return Path(named)
    above = Path(__file__).resolve().parents
    if len(above) < 6:  # installed near the root of the file system: no checkout
        return None
    checkout = above[5]
    beside = checkout.parent / "shared" / "data"
    return beside if (checkout / "packages").is_dir() and beside.is_dir() else None


def find_pack(data: str, *, below: str = "") -> Path:
    """Find the pack that a user means: a path, or the name of one below ZOO_PACKS (with or without `.parquet`).

    Args:
        data: such as `mine/set.parquet`, `mine/folder` or `set5`.
        below: folder below ZOO_PACKS where the names of this task are, such as `sr/eval`.

    Raises:
        UsageError: there is no such pack; names the nearest one.
    """
    path, root = Path(data), packs_root()
    if path.exists():
        return path
    if root is not None:
        for folder in (root / below, root):
            for candidate in (folder / data, folder / f"{data}.parquet"):
                if candidate.exists():
                    return candidate
    if root is None:
        remedy = "Give the path of a parquet file or a folder, or set ZOO_PACKS to the folder of the data packs."
    else:
        known = [p.stem for p in (root / below).glob("*.parquet")]
        remedy = did_you_mean(data, known) or f"{root / below} holds no packs: is ZOO_PACKS right?"
    raise UsageError(f"There is no pack {data!r}.", remedy)


def pack_paths(names: Iterable[str], *, below: str = "") -> list[Path]:
    """Find several packs; see `find_pack`."""
    return [find_pack(name, below=below) for name in names]


def open_pack(path: Path, *, plain_column: str, suffixes: Collection[str]) -> Pack:
    """Open a pack.

    Args:
        path: a parquet file, or a folder in one of the two forms.
        plain_column: which column the files of a folder without subfolders fill.
        suffixes: lower-case extensions with their dot that count in a folder, such as `{".png", ".txt"}`.

    Raises:
        InputError: missing, empty, damaged, or no pack at all.
    """
    if path.is_dir():
        return _open_folder(path, plain_column, suffixes)
    if not path.is_file():
        raise InputError(f"{path} does not exist.", "Check the spelling of the path.")
    return _open_parquet(path)


def _open_parquet(path: Path) -> Pack:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # the limits bound what the footer itself may claim
        with pq.ParquetFile(path, thrift_string_size_limit=2**26, thrift_container_size_limit=2**20) as file:
            metadata, columns = file.metadata, tuple(file.schema_arrow.names)
            sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    if max(sizes, default=0) > MAX_ROW_GROUP_BYTES:
        raise InputError(f"{path} has a row group of {max(sizes)} bytes.", "Write it with smaller row groups.")
    if metadata.num_rows == 0:
        raise InputError(f"{path} holds no examples.", "Is it the right file?")
    return Pack(path, columns, metadata.num_rows)


def _from_parquet(pack: Pack, columns: Collection[str]) -> Iterator[Example]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [column for column in pack.columns if column in columns or column == "name"]
    try:
        with pq.ParquetFile(pack.path, thrift_string_size_limit=2**26, thrift_container_size_limit=2**20) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    for column, cell in row.items():
                        if isinstance(cell, bytes | str):
                            _check_size(len(cell), f"{pack.path}, column {column}")
                    yield row
    except (pa.ArrowException, OSError) as error:
        raise _damaged(pack.path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0].strip() or type(error).__name__
    return InputError(f"{path} is not a readable parquet file ({reason}).", "Name a parquet file or a folder.")


def _open_folder(folder: Path, plain_column: str, suffixes: Collection[str]) -> Pack:
    children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    subfolders = {child.name: child for child in children if child.is_dir()}
    columns = {column: _files_of(sub, suffixes) for column, sub in subfolders.items()} or {
        plain_column: _files_of(folder, suffixes)
    }
    columns = {column: files for column, files in columns.items() if files}
    if not columns:
        kinds = ", ".join(sorted(suffixes))
        raise InputError(f"The folder {folder} holds no examples (files of the kinds {kinds}).", "Is it the right one?")
    stems = sorted({stem for files in columns.values() for stem in files})
    table = {stem: {column: files[stem] for column, files in columns.items() if stem in files} for stem in stems}
    return Pack(folder, tuple(columns), len(stems), table)


def _files_of(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        if path.stem in files:
            raise InputError(f"{path} and {files[path.stem].name} have the same stem.", "Rename one of them.")
        files[path.stem] = path
    return files


def _from_folder(table: dict[str, dict[str, Path]], columns: Collection[str]) -> Iterator[Example]:
    for stem, files in table.items():
        row: Example = {"name": stem}
        for column in columns:
            if column == "name":
                continue
            if column not in files:
                there = next(iter(files.values()))
                raise InputError(
                    f"{there} has no counterpart in the folder {column}.", "Every column needs every stem."
                )
            row[column] = _read(files[column])
        yield row


def _read(path: Path) -> bytes | str:
    try:
        _check_size(path.stat().st_size, str(path))
        return path.read_text(encoding="utf-8") if path.suffix.lower() == ".txt" else path.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", "Check its permissions and encoding.") from error


def _check_size(size_bytes: int, what: str) -> None:
    if size_bytes > MAX_CELL_BYTES:
        raise InputError(f"{what}: {size_bytes} bytes; the limit is {MAX_CELL_BYTES}.", "Cut it into parts.")
