"""How an image is cut into programs: fixed, because the statistics that programs leave are about these pixels."""

from __future__ import annotations

ROWS, COLUMNS = 4, 64
NEIGHBOURS = 16  # programs whose statistics are merged first


def programs(height: int, width: int, rows: int = ROWS, columns: int = COLUMNS) -> int:
    """Count the programs of an image: groups of `rows` rows, laid side by side, are one line, cut every `columns`."""
    groups = -(-height // rows)
    return -(-groups * width // columns)
