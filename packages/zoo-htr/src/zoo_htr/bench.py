"""Time a reader from encoded pictures of lines to text, beside peers on the same lines: `zoo bench ID`.

Every way does the whole: it decodes the pictures, prepares them, runs its network and writes the text. The lines are
spread evenly over the split val below ZOO_PACKS; without that, bar codes stand in for them, which only tells the time.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_core.bench import BenchReport, Limits, NotRun, Way, compare
from zoo_core.catalog import CatalogEntry
from zoo_core.errors import UsageError, ZooError, did_you_mean
from zoo_core.io.packs import packs_root
from zoo_core.predict import choose_device
from zoo_core.weights.build import build
from zoo_core.weights.find import find
from zoo_htr.data import scribbles
from zoo_htr.decode import Decoder
from zoo_htr.eval import read, read_by_peer
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.int8 import supported
from zoo_htr.metrics import score
from zoo_htr.options import HTROptions
from zoo_htr.peers import PEERS, peer
from zoo_htr.recognise import LineReader
from zoo_htr.truth import TrueLine, true_lines

PACK = "htr/lines/val.parquet"
LINES = 64
ROUNDS = 5
LONGEST = 256  # characters of a text that are compared
# a symbol that two likelihoods share to the last bit may fall either way; more than that is another text
SAME = Limits(most=float("inf"), share=1e-3, rms=float("inf"))


def bench(
    entry: CatalogEntry,
    *,
    against: Sequence[str] = (),
    size: str | None = None,
    rounds: int | None = None,
    weights: Path | None = None,
    device: str = "auto",
    offline: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Time the ways to read the same lines; `facts` has lines a second and CER of each.

    Args:
        entry: a handwriting model.
        against: peers, such as rapidocr.
        size: how many lines, 64 by default.
        rounds: how often each way runs in turn.
        weights: a safetensors file instead of the published weights.
        device: auto, cpu, cuda; peers always run on the CPU.
        offline: ask no network for weights.
        progress: told how many runs are done, of how many.

    Raises:
        UsageError: unknown peer or device, or a size that is no number.
        WeightsError: weights are missing or wrong.
    """
    for name in against:
        if name not in PEERS:
            raise UsageError(f"There is no peer {name!r}.", did_you_mean(name, PEERS))
    count = _count(size)
    where = choose_device(device)
    network = build(entry, find(entry, weights=weights, offline=offline), device=where, dtype=torch.float32)
    assert isinstance(network, HTRJAND)  # noqa: S101 - the manifest names this class
    lines, source = _lines(count, network)
    texts: dict[str, list[str]] = {}

    def way(name: str, run: Callable[[], list[str]], limits: Limits | None, note: str = "") -> Way:
        def kept() -> list[str]:
            texts[name] = run()
            return texts[name]

        return Way(name, kept, _codes, limits, note=note)

    def ours(decoder: str, **how: Any) -> Callable[[], list[str]]:
        chosen = Decoder.by_options(entry, network, HTROptions.model_validate({"decoder": decoder}))
        reader = LineReader(network, device=where, bounds=chosen.bounds, **how)
        return lambda: read(reader, [chosen], lines, step=_nothing)[0].texts

    if where.type == "cpu":
        ways = [
            way("ours", ours("greedy"), SAME, "greedy, a line a thread"),
            way("ours in batches", ours("greedy", plain=True), SAME, "the network as it is, lines of like widths"),
        ]
        if supported():
            with_openvino = importlib.util.find_spec("openvino") is not None
            note = f"--precision int8 {'with' if with_openvino else 'without'} OpenVINO: another text"
            ways.append(way("ours int8", ours("greedy", precision="int8"), None, note))
    else:
        ways = [
            way("ours", ours("greedy"), SAME, "greedy, batches of like widths"),
            way("ours one by one", ours("greedy", deterministic=True), SAME, "as --deterministic"),
        ]
    ways.append(way("ours beam", ours("beam"), None, "beam search with n-grams: another text"))
    missing = []
    for name in against:
        try:
            other = peer(name, threads=torch.get_num_threads())
        except ZooError as error:
            missing.append(NotRun(name, str(error)))
            continue
        ways.append(way(name, lambda other=other: read_by_peer(other, lines, step=_nothing).texts, None, "on the CPU"))  # type: ignore[misc]
    flops = entry.manifest.flops
    columns = sum(_width(line, network.height) for line in lines)
    report = compare(
        ways,
        model=entry.manifest.id,
        size=f"{len(lines)} lines of {source}",
        device=where,
        rounds=rounds or ROUNDS,
        flops=flops.count * columns // flops.at[-1] if flops else None,
        not_run=missing,
        progress=progress,
    )
    return _told(report, lines, texts)


def _told(report: BenchReport, lines: Sequence[TrueLine], texts: dict[str, list[str]]) -> BenchReport:
    """Add lines a second and CER to a report, and how many times as fast as each peer ours are, pair by pair."""
    speeds: dict[str, float] = {}
    rates: dict[str, float] = {}
    peers = [timing for timing in report.timings if timing.way in PEERS and timing.seconds]
    faster: dict[str, dict[str, float]] = {other.way: {} for other in peers}
    timings = []
    for timing in report.timings:
        rates[timing.way] = score([line.text for line in lines], texts[timing.way]).rate("cer")
        said = f"CER {100 * rates[timing.way]:.2f} %, {timing.note}"
        if timing.seconds:
            for other in peers if timing.way not in PEERS else ():
                pairs = zip(timing.seconds, other.seconds, strict=True)
                faster[other.way][timing.way] = statistics.median(theirs / mine for mine, theirs in pairs)
                said = f"{faster[other.way][timing.way]:.1f} times as fast as {other.way}, {said}"
            speeds[timing.way] = len(lines) / statistics.median(timing.seconds)
            said = f"{speeds[timing.way]:.1f} lines a second, {said}"
        timings.append(replace(timing, note=said))
    facts: dict[str, Any] = {**report.facts, "lines": len(lines), "lines_per_second": speeds, "cer": rates}
    facts["times_as_fast"] = faster
    return replace(report, timings=tuple(timings), facts=facts)


def _lines(count: int, network: HTRJAND) -> tuple[list[TrueLine], str]:
    root = packs_root()
    if root is not None and (root / PACK).is_file():
        known = list(true_lines(root / PACK))
        chosen = np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int)
        return [known[i] for i in chosen], PACK
    made = scribbles(count, network.alphabet, seed=1)
    return [TrueLine(line.name, line.text, line.pixels) for line in made], "bar codes"


def _codes(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return texts as code points (N, 256), so that they can be compared as outputs are."""
    table = np.zeros((len(texts), LONGEST), np.int64)
    for row, text in zip(table, texts, strict=True):
        points = [ord(c) for c in text[:LONGEST]]
        row[: len(points)] = points
    return table


def _width(line: TrueLine, height: int) -> int:
    pixels = line.pixels()
    height_px, width_px = pixels.shape
    return int(width_px * height / height_px + 0.5)


def _count(size: str | None) -> int:
    if size is None:
        return LINES
    if not size.isdecimal() or not int(size):
        raise UsageError(f"{size!r} is no number of lines.", "Write --size 64.")
    return int(size)


def _nothing(_count: int) -> None:
    pass
