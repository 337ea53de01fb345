"""Settle the weights of a finished run as the published ones: `uv run tools/settle.py imdn-x4 runs/imdn-x4`.

Writes them, in half precision, with `--bits 8` in half of that, into the package's weights folder; names them in the
manifest with the figures that `zoo eval` gives for them; keeps the run's record and recipe in models/ID/, and the
record of each evaluation beside them. With `--beside` the weights lie there too, and the manifest names none: users
give the file by `--weights`. Forecasters are measured apart (tools/forecast_figures.py), then settled once more. The
card is drawn from these by `uv run tools/cards.py`. Weights are committed once a run is worth it, not often: every
version stays in the history for good.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_core.catalog import CatalogEntry, find
from zoo_core.train.record import RunRecord
from zoo_core.weights.build import construct
from zoo_core.weights.eight_bits import compact, widened
from zoo_core.weights.files import load_strict, read_tensors, sha256_of, write_tensors
from zoo_core.weights.golden import answer, make_golden

ROOT = Path(__file__).resolve().parents[1]
MEASURED = {  # packs and figures of each task; forecasts are measured apart, by tools/forecast_figures.py
    "super-resolution": (("set5", "set14"), ("psnr_y", "ssim_y")),
    "handwriting-recognition": (("htr/lines/val.parquet",), ("cer", "wer")),
}
DEFAULT_FORECASTER = "aurora-small"  # of tools/forecast_figures.py
FORECASTS = {"fracast": "mae over fracast's on TimeMMD, geometric mean", "coverage": "coverage80"}
DIGITS = 4
MOST_CHARACTERS = 100_000  # of one value in a record that is kept: figures, not the readings of every line
# Half precision must cost nothing: root mean square on noise, its worst case, as a share of the output's range. For
# images that is a twentieth of a grey level; logits have no range, and no text changes at a thousandth of the largest.
# 8 bits may cost something, which the figures show: the limit only finds a network that they break.
MOST_RMS, MOST_RMS_OF_LOGITS, TIMES_IN_8_BITS = 0.05 / 255, 1e-3, 10


def rounded(entry: CatalogEntry, tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Round weights to half precision, or matrices to 8 bits, and stop if the output shows it."""
    module = construct(entry).eval()
    if bits == 8:
        made = compact(tensors)
    else:
        made = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    load_strict(module, tensors, what="the run")
    golden = make_golden(entry, module)
    load_strict(module, widened(made, what="the rounded run"), what="the rounded run")
    if entry.manifest.outputs.range:
        low, high = entry.manifest.outputs.range
        size, most = high - low, MOST_RMS
    else:
        size, most = float(golden["output"].abs().max()), MOST_RMS_OF_LOGITS
    with torch.inference_mode():
        moved = answer(module, golden["input"]) - golden["output"]
    rms = float(moved.square().mean().sqrt()) / size
    print(f"{bits} bits move the output by {rms:.2g} of its range, root mean square")
    if rms > most * (TIMES_IN_8_BITS if bits == 8 else 1):
        sys.exit(f"that is too much; keep these weights in {2 * bits} bits")
    return made


def placeless(text: str) -> str:
    """Shorten the absolute paths of weight files, which say nothing elsewhere, to folder and name."""
    return re.sub(r"/[^\s\"]*/([^/\s\"]+/[^/\s\"]+\.safetensors)", r"\1", text)


def manifest_text(manifest: dict[str, Any]) -> str:
    """Write a manifest as people do: a list of numbers or characters on one line."""
    lines: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: marked(inner) for key, inner in value.items()}
        if isinstance(value, list) and not any(isinstance(inner, dict | list) for inner in value):
            lines.append(json.dumps(value, ensure_ascii=False))
            return f"@list {len(lines) - 1}@"
        return [marked(inner) for inner in value] if isinstance(value, list) else value

    text = json.dumps(marked(manifest), indent=2, ensure_ascii=False) + "\n"
    return re.sub(r'"@list (\d+)@"', lambda found: lines[int(found[1])], text)


def measured(entry: CatalogEntry, weights: Path, folder: Path) -> list[dict[str, Any]]:
    """Evaluate on every set, keep the records, and return the figures as the manifest has them."""
    model = entry.manifest.id
    figures = forecasts(folder, model)
    packs, metrics = MEASURED.get(entry.manifest.task, ((), ()))
    for name in packs:
        record = folder / f"eval-{Path(name).stem}.json"
        command = ["zoo", "eval", model, "--data", name]
        if weights.is_relative_to(ROOT / "models"):
            command += ["--weights", str(weights.relative_to(ROOT))]
        subprocess.run(
            ["zoo", "eval", model, "--data", name, "--weights", str(weights), "-o", str(record), "--overwrite"],
            check=True,
            cwd=ROOT,
        )
        report = json.loads(record.read_text(encoding="utf-8"))
        kept = {key: value for key, value in report.items() if len(json.dumps(value)) < MOST_CHARACTERS}
        record.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        figures += [
            {
                "name": metric,
                "value": round(report[metric], DIGITS),
                "dataset": name,
                "protocol": report["protocol"],
                "by": "ours",
                "command": " ".join(command),
            }
            for metric in metrics
        ]
    return figures


def forecasts(folder: Path, model: str) -> list[dict[str, Any]]:
    """Return what tools/forecast_figures.py kept of these weights alone, of the test part if it was read."""
    parts = [path for path in (folder / f"figures-{part}.json" for part in ("test", "validation")) if path.is_file()]
    if not parts:
        return []
    record = json.loads(parts[0].read_text(encoding="utf-8"))
    seed = list(record["weights"]).index(f"{model}.safetensors")
    whose = "" if model == DEFAULT_FORECASTER else f" --model {model}"
    return [
        {
            "name": FORECASTS[name],
            "value": round(values[seed], DIGITS),
            "dataset": "forecast/eval",
            "protocol": f"{record['part']} part",
            "by": "ours",
            "command": f"uv run tools/forecast_figures.py{whose} --part {record['part']}",
        }
        for name, values in record["figures"].items()
        if name in FORECASTS
    ]


def main() -> None:
    """Read the command line and settle one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--licence", default="Apache-2.0", help="of these weights")
    parser.add_argument("--trained-on", required=True, help="the data, in words, with their licences")
    parser.add_argument("--beside", action="store_true", help="into models/ID, not into the wheel, for `--weights`")
    parser.add_argument("--bits", type=int, choices=(8, 16), default=16, help="of matrices; all else has 16")
    parser.add_argument(
        "--unfinished", action="store_true", help="of a run that its time limit ended, as its record says"
    )
    arguments = parser.parse_args()
    entry = find(arguments.model)
    model = entry.manifest.id
    record = RunRecord.model_validate_json((arguments.run / "record.json").read_text(encoding="utf-8"))
    if (record.status != "finished" and not arguments.unfinished) or record.weights is None:
        sys.exit(f"{arguments.run}: this run is not finished ({record.status})")

    tensors, metadata = read_tensors(arguments.run / record.weights["file"])
    folder = ROOT / "models" / model
    folder.mkdir(parents=True, exist_ok=True)
    target = (folder if arguments.beside else entry.folder / "weights") / f"{model}.safetensors"
    target.parent.mkdir(exist_ok=True)
    write_tensors(target, rounded(entry, tensors, arguments.bits), {**metadata, "model": model}, overwrite=True)

    for source, name in (("record.json", "run.json"), ("recipe.resolved.yaml", "recipe.yaml")):
        (folder / name).write_text(placeless((arguments.run / source).read_text(encoding="utf-8")), encoding="utf-8")

    path = entry.folder / "manifests" / f"{model}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    weights = {
        "source": "embedded",
        "file": target.name,
        "size_bytes": target.stat().st_size,
        "sha256": sha256_of(target),
        "licence": arguments.licence,
        "trained_on": arguments.trained_on,
    }
    if not arguments.beside:
        manifest["weights"] = [weights]
    others = [metric for metric in manifest.get("metrics", []) if metric["by"] != "ours"]
    manifest["metrics"] = [*measured(entry, target, folder), *others]
    path.write_text(manifest_text(manifest), encoding="utf-8")
    if not arguments.beside:
        subprocess.run(["zoo", "weights", "golden", model, "--overwrite"], check=True, cwd=ROOT)
    print(f"{model}: {target.stat().st_size:,} bytes; now `uv run tools/cards.py` and tools/pages.py")


if __name__ == "__main__":
    main()
