"""Draw docs/benchmarks.md from the records in models/ID/: `uv run tools/benchmarks.py [--check]`.

A record is what `zoo eval ... -o models/ID/eval-SET.json` and `zoo bench ... -o models/ID/bench-PLACE.json` wrote; no
figure of the page is typed. With --check nothing is written, and the exit code is 1 if the page is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from zoo_core.catalog import find

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
# what an evaluation compares with unasked
ALWAYS = ("paper", "bicubic", "input", "official")
HEAD = """\
# Benchmarks

Drawn by `uv run tools/benchmarks.py` from the records in models/; every figure was printed by the command above it.
Times on one machine say little about another; ratios say more, and they are taken round by round in one process, after
the outputs have been compared.
"""

SPEED = """
## How fast

Super-resolution on a CPU takes `packed stages`: the network cut at its gates, in oneDNN's own operators. OpenVINO is
not the default where it is installed, for three reasons that `zoo bench imdn-x4 --against openvino` and `uv run --with
openvino tools/bench_stages.py` show. It calls the same oneDNN convolutions, so on a whole image it saves only what
lies between them. Cut at the gates, as tiles need it, it is slower than packed stages, as every stage hands its maps
over. And it converts the network first, which takes longer than an image of this size. Its lead on whole images is
memory that it keeps and that glibc takes back from PyTorch after every image. `zoo predict` tells glibc to keep it, in
its own process; a library must not, so for `zoo bench` say it yourself:
`MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=268435456`. `models/imdn-x4/bench-cpu-kept.json` was made so.
Four such runs and four without, by turns, each of 15 rounds: 332 to 338 ms against OpenVINO's 356 to 361 with it, and
350 to 371 against 356 to 367 without. With four peers in one process the lead was lost: 374 against 357 ms."""


def records(kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the records of a kind (eval, bench), by model and name."""
    for path in sorted(ROOT.glob(f"models/*/{kind}-*.json")):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def table(rows: list[list[str]]) -> Iterator[str]:
    """Yield a Markdown table; all columns but the first are figures."""
    head, *body = rows
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|--:" * (len(head) - 1) + "|"
    for row in body:
        yield "| " + " | ".join(row) + " |"


def evaluation(record: dict[str, Any]) -> Iterator[str]:
    """Yield the section of one evaluation."""
    model, dataset = record["model"], record["dataset"]
    precision = record["facts"]["precision"]
    half = "" if precision == "fp32" else f" --precision {precision}"
    yield f"\n### {model} on {dataset}{half and f', {precision}'}\n"
    peers = "".join(f" --against {name}" for name in record["against"] if name not in ALWAYS)
    told = [metric for metric in find(model).manifest.metrics if Path(metric.dataset).stem == dataset]
    data = told[0].dataset if told else dataset
    beside = f"models/{model}/{model}.safetensors"
    weights = f" --weights {beside}" if (ROOT / beside).is_file() else ""
    command = f"zoo eval {model} --data {data}{weights}{peers}{half}"
    yield f"`{command}`: {record['n']} examples, protocol {record['protocol']}.\n"
    worth = {metric.name for metric in told} or set(record["intervals"])
    metrics = [name for name in record["intervals"] if name in record and name in worth]
    gaps = [f"ours minus this, {name} (95 %)" for name in metrics if record["against"]]
    rows = [["way", *metrics, *gaps]]
    for name, way in record["against"].items():
        cells = [f"{way['metrics'][metric]:.5g}" for metric in metrics]
        for metric in metrics:
            d = way["ours_minus_this"].get(metric)
            cells.append(f"{d['mean']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})" if d else "")
        rows.append([name, *cells])
    rows.append(["**ours**", *(f"**{record[metric]:.5g}**" for metric in metrics), *("" for _ in gaps)])
    yield from table(rows)
    for check in record["checks"]:
        detail = f" ({check['detail']})" if check["detail"] else ""
        yield f"\n{'Holds' if check['passed'] else 'DOES NOT HOLD'}: {check['what']}{detail}."


def timing(path: Path, record: dict[str, Any]) -> Iterator[str]:
    """Yield the section of one bench."""
    facts = record["facts"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    place = facts.get("gpu") or facts.get("processor") or facts["device"]
    load = " and ".join(f"{value:.1f}" for value in facts.get("load", []))
    yield f"\n### {record['model']}, {record['size']}, {place}\n"
    yield f"`{path.relative_to(ROOT)}`: {facts['rounds']} rounds, {facts.get('threads', '?')} threads, {versions}; "
    yield f"load average before and after {load or 'unknown'}.\n"
    rows = [
        ["way", "median ms", "least ms", "times the first", "times the floor", "memory MB", "most", "differ", "rms"]
    ]
    for way in record["ways"]:
        if not way["seconds"]:
            rows.append([way["name"], "differs: not timed", *[""] * 7])
            continue
        floor, gap = way["floor"], way["difference"]
        rows.append(
            [
                way["name"],
                f"{way['median_seconds'] * 1e3:.4g}",
                f"{way['least_seconds'] * 1e3:.4g}",
                f"{way['median_ratio']:.2f}",
                f"{way['least_seconds'] / floor['seconds']:.2f}" if floor else "",
                f"{way['memory_bytes'] / 1e6:.0f}" if way["memory_bytes"] is not None else "",
                *([f"{gap['most']:g}", f"{gap['share']:.3%}", f"{gap['rms']:.3f}"] if gap else ["", "", ""]),
            ]
        )
    yield from table(rows)
    for way in record["ways"]:
        if way["note"]:
            yield f"\n{way['name']}: {way['note']}."
    for missing in record["not_run"]:
        yield f"\nNot run: {missing['name']} ({missing['why']})."


def launches(path: Path, record: dict[str, Any]) -> Iterator[str]:
    """Yield the section on the kernels of one machine, the launches of a layer taken together."""
    for size in record["sizes"]:
        yield f"\n### Launches of the fused engine, input {size['lr'].replace('x', ' x ')}, {record['device']}\n"
        yield (
            f"`{path.relative_to(ROOT)}`, from `python tools/bench_gpu_imdn.py`: medians. The floor is the larger of "
            "operations over 790 TFLOP/s and bytes over 4.2 TB/s, the rates of an H200.\n"
        )
        layers: dict[str, list[dict[str, Any]]] = {}
        for kernel in size["kernels"]:
            layers.setdefault(kernel["name"], []).append(kernel)
        rows = [["layer", "launches", "microseconds each", "TFLOP/s", "floor", "times the floor"]]
        for name, group in layers.items():
            us, floor = (median(kernel[key] for kernel in group) for key in ("us", "floor_us"))
            rate = median(kernel["tflops"] for kernel in group)
            rows.append([name, str(len(group)), f"{us:.1f}", f"{rate:.0f}", f"{floor:.1f}", f"{us / floor:.2f}"])
        yield from table(rows)


def page() -> str:
    """Return the whole page."""
    lines = [HEAD, "## How good", *(line for _, record in records("eval") for line in evaluation(record))]
    lines += [SPEED, *(line for path, record in records("bench") for line in timing(path, record))]
    lines += [line for path, record in records("kernels") for line in launches(path, record)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
            return 0
        print(f"{PAGE.relative_to(ROOT)}: stale: run uv run tools/benchmarks.py")
        return 1
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
