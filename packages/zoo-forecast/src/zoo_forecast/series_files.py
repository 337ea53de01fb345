"""Files that hold series whole: JSON lines as gluonts has them, and .tsf, the format of the Monash archive.

Of each series they say where it begins; its other stamps follow by the frequency.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from zoo_core.errors import InputError, UsageError, did_you_mean
from zoo_forecast.calendar import Step
from zoo_forecast.items import Columns, Item
from zoo_forecast.ridge import checked
from zoo_forecast.series import Values

UNKNOWN_START = np.datetime64("2000-01-01", "us")
NO_START = "the file does not say when it begins: its time stamps are made up, from 2000-01-01 on"
FREQUENCIES = {
    "seconds": "s", "secondly": "s", "minutes": "min", "minutely": "min", "half_hourly": "30min", "hours": "h",
    "hourly": "h", "daily": "D", "days": "D", "weekly": "W", "monthly": "MS", "quarterly": "QS", "yearly": "YS",
}  # fmt: skip


def is_json_lines(head: bytes) -> bool:
    """Whether a file that begins like this is JSON lines."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"


def is_tsf(head: bytes) -> bool:
    """Whether a file that begins like this is .tsf: remarks, then its declarations."""
    return re.match(rb"(?:\xef\xbb\xbf)?(?:\s*#[^\n]*\n|\s*\n)*\s*@\w+", head) is not None


def read_json_lines(data: bytes, columns: Columns, *, freq: str | None) -> tuple[list[Item], list[Values | None]]:
    """Read series, one JSON object a line: target, start, item_id, and whatever texts and covariates are named.

    Args:
        data: of the file.
        columns: names of the fields for target, item, text and covariates (such as feat_dynamic_real, which go as far
            as they are known, beyond the target too).
        freq: of all series; by default that of their field freq.

    Returns:
        the series, and of each the covariates (C, L or more) or None.

    Raises:
        InputError: a line that is none; it is named. A field that is missing. An item that is there twice.
    """
    items: list[Item] = []
    tracks: list[Values | None] = []
    for number, entry in _entries(data):
        values = _target(entry, columns.target, number)
        step = _step(freq or entry.get("freq"), f"line {number}")
        first, note = _start(entry.get("start"), number)
        texts: tuple[tuple[int, str], ...] = ()
        if columns.text is not None and (told := entry.get(columns.text)) is not None:
            if not isinstance(told, str):
                raise InputError(f"line {number}: the field {columns.text!r} is no text.")
            texts = ((len(values) - 1, told),) if told.strip() else ()
        name = entry.get(columns.item, str(number - 1))
        if not isinstance(name, (str, int)):
            raise InputError(f"line {number}: the field {columns.item!r} is neither a word nor a whole number.")
        items.append(Item.beginning(name, first, values, step, texts=texts, notes=note))
        tracks.append(_tracks(entry, columns.covariates, len(values), number))
    _check_names(items)
    return items, tracks


def read_tsf(data: bytes, columns: Columns, *, freq: str | None) -> list[Item]:
    """Read series of the Monash archive (Godahewa et al. 2021): declarations, then attributes and values by colons.

    Args:
        data: of the file.
        columns: none can be named: the format has neither texts nor covariates.
        freq: instead of the file's own.

    Raises:
        InputError: a line that is not of the format; it is named. An item that is there twice.
    """
    if columns.text or columns.covariates:
        raise InputError("the format .tsf has neither texts nor covariates.", "Leave the option out.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # as the archive's own files
    attributes: list[tuple[str, str]] = []
    named, inside = freq, False
    items: list[Item] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if not inside:
            word, *rest = line.split()
            if word.lower() == "@attribute" and len(rest) == 2:
                attributes.append((rest[0], rest[1].lower()))
            elif word.lower() == "@frequency" and rest:
                named = freq or _monash(rest[0])
            elif word.lower() == "@data":
                inside = True
            elif not word.startswith("@"):
                raise InputError(f"line {number} comes before @data and declares nothing.")
            continue
        parts = line.split(":", len(attributes))
        if len(parts) != len(attributes) + 1:
            raise InputError(f"line {number} has {len(parts) - 1} attributes, but {len(attributes)} are declared.")
        held = {name: part for (name, _), part in zip(attributes, parts, strict=False)}
        dates = [name for name, kind in attributes if kind == "date"]
        first, note = _monash_start(held[dates[0]], number) if dates else (UNKNOWN_START, (NO_START,))
        values = _monash_values(parts[-1], number)
        name = held.get("series_name", str(len(items)))
        items.append(Item.beginning(name, first, values, _step(named, f"line {number}"), notes=note))
    if not items:
        raise InputError("it holds no series.", "A .tsf file has its series after the line @data.")
    _check_names(items)
    return items


def _entries(data: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"it is no UTF-8 text ({error.reason} at byte {error.start}).") from error
    found = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"line {number} is no JSON ({error}).", "Each line is one object with start and target."
            ) from error
        if not isinstance(entry, dict):
            raise InputError(f"line {number} is no object.", "Each line is one object with start and target.")
        found = True
        yield number, entry
    if not found:
        raise InputError("it holds no series.", "Each line is one object with start and target.")


def _target(entry: Mapping[str, Any], field: str, number: int) -> Values:
    if field not in entry:
        raise InputError(f"line {number} has no field {field!r}.", did_you_mean(field, entry))
    try:
        values = np.array(entry[field], dtype=np.float64)  # null becomes NaN, as does "NaN"
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"line {number}: the field {field!r} holds something that is no number.") from error
    if values.ndim != 1 or not len(values):
        raise InputError(f"line {number}: the field {field!r} must be one row of numbers.", "Give channels apart.")
    return values


def _tracks(entry: Mapping[str, Any], names: tuple[str, ...], points: int, number: int) -> Values | None:
    if not names:
        return None
    rows = []
    for name in names:
        if name not in entry:
            raise InputError(f"line {number} has no field {name!r}.", did_you_mean(name, entry))
        held = np.atleast_2d(np.array(entry[name], dtype=object))
        rows.append(checked(held, held.shape[-1], name=f"line {number}"))
    shortest = min(row.shape[1] for row in rows)
    if shortest < points:
        raise InputError(f"line {number}: covariates have {shortest} points, the target {points}.")
    return np.concatenate([row[:, :shortest] for row in rows])


def _start(given: Any, number: int) -> tuple[np.datetime64, tuple[str, ...]]:
    if given is None:
        return UNKNOWN_START, (NO_START,)
    try:
        start = datetime.fromisoformat(given)
    except (TypeError, ValueError) as error:
        raise InputError(f"line {number}: start {given!r} is no time stamp.", "Write 2024-01-31 12:00:00.") from error
    if start.tzinfo is not None:
        raise InputError(f"line {number}: start {given!r} has a time zone, which is not kept here.", "Leave it out.")
    return np.datetime64(start, "us"), ()


def _monash_start(given: str, number: int) -> tuple[np.datetime64, tuple[str, ...]]:
    day, _, clock = given.strip().partition(" ")
    return _start(f"{day} {clock.replace('-', ':')}".strip(), number)


def _monash_values(given: str, number: int) -> Values:
    try:
        values = np.array([np.nan if cell.strip() in ("?", "") else float(cell) for cell in given.split(",")])
    except ValueError as error:
        raise InputError(f"line {number} holds something that is no number ({error}).") from error
    return values


def _monash(name: str) -> str:
    count, _, unit = name.lower().rpartition("_") if name[:1].isdigit() else ("", "", name.lower())
    if unit not in FREQUENCIES or (count and not count.isdigit()):
        raise InputError(f"there is no frequency {name!r}.", did_you_mean(unit, FREQUENCIES))
    return f"{count}{FREQUENCIES[unit]}"


def _step(name: Any, place: str) -> Step:
    if not isinstance(name, str):
        raise InputError(f"{place}: the frequency is not said.", "Give it, such as --freq h.")
    try:
        return Step.named(name)
    except UsageError as error:
        raise InputError(f"{place}: {error.message}", error.remedy) from error


def _check_names(items: list[Item]) -> None:
    seen = set()
    for item in items:
        if str(item.name) in seen:
            raise InputError(f"the item {item.name!r} is there twice.", "Give each series a name of its own.")
        seen.add(str(item.name))
