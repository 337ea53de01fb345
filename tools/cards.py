"""Draw the model cards, models/ID/README.md, from manifests and run records: `uv run tools/cards.py [--check]`.

With --check nothing is written, and the exit code is 1 if a card is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from zoo_core.catalog import models
from zoo_core.weights.card import card_text

ROOT = Path(__file__).resolve().parents[1]


def cards() -> Iterator[tuple[Path, str]]:
    """Yield path and text of the card of every model of this repository that has weights."""
    for entry in models():
        if ROOT not in entry.folder.parents or not entry.manifest.weights:
            continue
        folder = ROOT / "models" / entry.manifest.id
        run = folder / "run.json"
        record = json.loads(run.read_text(encoding="utf-8")) if run.is_file() else None
        yield folder / "README.md", card_text(entry.manifest, entry.manifest.weight_set(), record=record)


def main() -> int:
    """Write or check all cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for path, text in cards():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        print(f"{path.relative_to(ROOT)}: {'stale' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
