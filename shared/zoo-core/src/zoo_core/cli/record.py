"""The JSON file that `zoo eval` and `zoo bench` write beside what they print: docs and cards are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo_core.errors import InputError


def check_free(path: Path | None, *, overwrite: bool) -> None:
    """Refuse, before long work begins, a file that may not be written at its end.

    Raises:
        InputError: it exists, and `overwrite` is off.
    """
    if path is not None and path.exists() and not overwrite:
        raise InputError(f"{path} exists already.", "Give --overwrite to replace it.")


def write(path: Path | None, schema: str, record: dict[str, Any], *, overwrite: bool) -> None:
    """Write a record whole or not at all; None writes nothing.

    Raises:
        ZooError: the folder cannot be written to.
    """
    from zoo_core.io.atomic import whole

    if path is not None:
        with whole(path, overwrite=overwrite) as aside:
            aside.write_text(json.dumps({"schema": schema, **record}, indent=1, ensure_ascii=False) + "\n", "utf-8")
