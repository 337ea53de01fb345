"""Time attention on CUDA, in bf16: SDPA, FlexAttention, plain and compiled formula, our band kernel, and the floor.

    python tools/bench_gpu_attention.py [--case NAME ...] [--rounds N] [--limit SECONDS] [--forward] [--cold] [--tiles]
        [--json FOLDER]
    python tools/bench_gpu_attention.py --tiny        the same on the CPU with small sizes, to see that it runs
    python tools/bench_gpu_attention.py --draw FOLDER puts a table of such records into docs/attention.md

Every case is a table as `zoo bench` prints it: outputs (and with gradients the gradient of q) are compared with the
plain formula in fp32 before a time is printed, the ways run in turns, times are between events, `of floor` is over the
larger of operations and bytes by rates measured in the same process. Backward counts 2.5 times the forward operations.
`auto` is what `attend` takes unasked: it must not be slower than sdpa. What compiles does so first, case by case in
several processes, which leave it in PyTorch's cache. A case that fails leaves its error in its record, and no case
begins after the limit. Needs zoo-core importable.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo_core.attention import Causal, Distance, LowRank, Padding, Window, attend, explain
from zoo_core.attention.biases import Bias
from zoo_core.attention.blockwise import StridedBlock
from zoo_core.attention.grids import Circle2D
from zoo_core.attention.masks import Mask
from zoo_core.attention.papers.grouped_differential import sharing
from zoo_core.bench import BenchReport, Limits, NotRun, Way, compare
from zoo_core.errors import UsageError

LIMITS = Limits(most=0.15, share=1.0, rms=0.02)  # bf16 in and out, values of order 1
PAGE = Path(__file__).resolve().parents[1] / "docs/attention.md"
EAGER_MOST = 1 << 28  # scores of the plain formula all at once
COMPILED = ("flex", "formula, compiled")
CASE_SECONDS = 4.0  # after which no further round begins
CACHE_BYTES = 1 << 28  # more than any device's cache holds


@dataclass(frozen=True)
class Case:
    """One row of the table: sizes, what is asked, and whether decay is learnt.

    Args:
        name: for --case.
        shape: (B, Hq, N, d).
        kv_heads: of keys and values.
        value_width: dv.
        mask: or None.
        decay: whether each head decays with distance, lambda and mu learnt.
        rank: K of a low-rank bias, or 0.
        noise: signal heads a noise head, or 0 where heads are plain.
        train: whether gradients are timed.
    """

    name: str
    shape: tuple[int, int, int, int]
    kv_heads: int
    value_width: int
    mask: Mask | None = None
    decay: bool = False
    rank: int = 0
    noise: int = 0
    train: bool = True

    def tiny(self) -> Case:
        """Return the case with few, short sequences."""
        batch, heads, tokens, width = self.shape
        return replace(self, shape=(min(batch, 2), heads, min(tokens, 64), width), mask=_tiny_mask(self.mask))


def _tiny_mask(mask: Mask | None) -> Mask | None:
    if isinstance(mask, Window):
        return Window(8, 8)
    if isinstance(mask, Padding):
        return Padding([64, 30])
    if isinstance(mask, Circle2D):
        return Circle2D(7, 8, 2, text=8)
    return mask if mask is None or mask == Causal() else StridedBlock(4, 8, 32, local=2) & Causal()


def cases() -> list[Case]:
    """Return the rows of the specification's table, and HTR's with its decay."""
    lines = torch.randint(60, 257, (64,), generator=torch.Generator().manual_seed(0))
    strided = StridedBlock(64, 8, 32, local=16) & Causal()
    return [
        Case("htr", (64, 4, 256, 40), 4, 40, Padding(lines)),
        Case("htr-decay", (64, 4, 256, 40), 4, 40, Padding(lines), decay=True),
        Case("aurora", (256, 8, 60, 64), 8, 64, rank=10),
        Case("aurora-long", (32, 8, 512, 64), 8, 64, rank=10),
        Case("vit-b", (256, 12, 197, 64), 12, 64),
        Case("band-4k", (4, 16, 4096, 64), 16, 64, Window(128, 128), decay=True),
        Case("band-8k", (4, 16, 8192, 64), 16, 64, Window(256, 256), decay=True),
        Case("differential", (4, 40, 4096, 128), 8, 256, Causal(), noise=4),
        Case("s2", (1, 32, 32768, 128), 32, 128, strided, train=False),
        Case("clear", (1, 24, 66048, 128), 24, 128, Circle2D(256, 256, 16, text=512), train=False),
    ]


class Inputs:
    """Tensors of a case, and functions that compute it."""

    def __init__(self, case: Case, device: torch.device, *, train: bool) -> None:
        batch, heads, tokens, width = case.shape
        generator = torch.Generator(device).manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, device=device).bfloat16()
            return x.requires_grad_(train)

        keys = case.kv_heads * (2 if case.noise else 1)
        self.case, self.train = case, train
        self.q, self.k = drawn(batch, heads, tokens, width), drawn(batch, keys, tokens, width)
        self.v = drawn(batch, case.kv_heads, tokens, case.value_width)
        self.kv_map = sharing(case.kv_heads, case.noise) if case.noise else None
        self.weight = torch.randn(batch, heads, tokens, case.value_width, device=device, dtype=torch.bfloat16)
        self.bias: Bias | None = None
        if case.decay:
            lam = torch.rand(heads, generator=generator, device=device) / 4
            self.bias = Distance("laplace", lam.requires_grad_(train), torch.zeros_like(lam).requires_grad_(train))
        if case.rank:
            a, b = (drawn(batch, heads, tokens, case.rank) for _ in range(2))
            self.bias = LowRank(a, b, torch.eye(case.rank, device=device).requires_grad_(train))
        self.leaves = [self.q, self.k, self.v, *(self.bias.tensors() if self.bias else ())]

    def finished(self, out: Tensor) -> Tensor:
        """Return the output, with the gradient of q behind it where gradients are timed."""
        if not self.train:
            return out.detach()
        leaves = [x for x in self.leaves if x.requires_grad]
        gradients = torch.autograd.grad(out, leaves, self.weight.to(out.dtype), allow_unused=True)
        assert gradients[0] is not None  # noqa: S101 - every way depends on q
        return torch.cat([out.detach().flatten(), gradients[0].to(out.dtype).flatten()])

    def by(self, backend: str, *, bare: bool = False) -> Callable[[], Tensor]:
        """Return a function that computes the case by a backend; bare: without mask and bias."""
        mask, bias = (None, None) if bare else (self.case.mask, self.bias)

        def run() -> Tensor:
            result = attend(self.q, self.k, self.v, mask=mask, bias=bias, kv_map=self.kv_map, backend=backend)  # type: ignore[arg-type]
            return self.finished(result.out)

        return run

    def plain(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return the formula as one would write it, with a table of mask and bias made before."""
        heads = self.q.shape[1]
        pairs_mask = None
        if self.case.mask is not None:
            tokens = self.q.shape[2]
            pairs_mask = self.case.mask.dense(tokens, tokens, batch=len(self.q), heads=heads, device=self.q.device)
        bias, width = self.bias, self.q.shape[3]
        maps = self.kv_map

        def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if maps is not None:
                k, v = k[:, list(maps[0])], v[:, list(maps[1])]
            s = q @ k.mT * width**-0.5
            if isinstance(bias, Distance):
                assert bias.mu is not None  # noqa: S101 - it is made above
                place = torch.arange(q.shape[2], device=q.device, dtype=torch.float32)
                s = s - bias.lam[:, None, None] * (place[None, :] - place[:, None] - bias.mu[:, None, None]).abs()
            if isinstance(bias, LowRank):
                s = s + bias.a @ bias.b.mT
            if pairs_mask is not None:
                s = s.masked_fill(~pairs_mask, float("-inf"))
            return s.softmax(-1).to(v.dtype) @ v

        return formula


def way(name: str, run: Callable[[], Tensor], note: str = "", limits: Limits | None = LIMITS) -> Way:
    """Return a way in bf16 of which some millions of values are compared."""

    def values(x: Tensor) -> NDArray[Any]:
        flat = x.flatten()
        return flat[:: max(1, flat.numel() // 4_000_000)].float().cpu().numpy()

    return Way(name, run, values, limits, "bf16", note)


def ways(inputs: Inputs, *, tiles: bool) -> tuple[list[Way], list[NotRun]]:
    """Return the ways to compute a case, and which are left out."""
    case = inputs.case
    batch, heads, tokens, _ = case.shape
    found = [way(name, inputs.by(name)) for name in ("auto", "sdpa", "flex", "band")]
    if case.mask is not None or inputs.bias is not None:
        bare = way("sdpa without mask and bias", inputs.by("sdpa", bare=True), "computes something else", None)
        found.append(bare)
    missing = []
    if batch * heads * tokens**2 <= EAGER_MOST:
        formula = inputs.plain()
        compiled = torch.compile(formula, dynamic=False)
        for name, run in (("formula, eager", formula), ("formula, compiled", compiled)):
            found.append(way(name, lambda run=run: inputs.finished(run(inputs.q, inputs.k, inputs.v))))  # type: ignore[misc]
    else:
        missing.append(NotRun("formula, eager or compiled", f"{batch * heads * tokens**2 / 1e9:.1f} G scores"))
    if tiles and isinstance(inputs.bias, Distance) and isinstance(case.mask, Window):
        found += list(tiled(inputs))
    return found, missing


def tiled(inputs: Inputs) -> Iterator[Way]:
    """Yield the forward pass of the band kernel with other tiles."""
    from zoo_core.kernels.band import triton

    bias, mask = inputs.bias, inputs.case.mask
    assert isinstance(bias, Distance)  # noqa: S101 - the caller looked
    assert bias.mu is not None  # noqa: S101
    assert isinstance(mask, Window)  # noqa: S101
    lengths = torch.full((len(inputs.q),), inputs.q.shape[2], device=inputs.q.device, dtype=torch.int32)
    q, k, v, lam, mu = (x.detach() for x in (inputs.q, inputs.k, inputs.v, bias.lam, bias.mu))
    width = q.shape[3] ** -0.5
    for queries, keys, warps in ((64, 64, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8), (64, 32, 4)):
        for stages in (1, 2, 3):
            tile = triton.Tile(queries, keys, stages, warps)

            def run(tile: triton.Tile = tile) -> Tensor:
                return triton.band(q, k, v, lam, mu, lengths, width, mask.left, mask.right, tile=tile)[0]

            yield way(f"band {queries} x {keys}, {warps} warps, {stages} stages", run)


def main() -> None:
    """Print a table for each case and keep the records."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in cases()]
    parser.add_argument("--case", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--limit", type=float, default=90, metavar="SECONDS", help="after which no case begins")
    parser.add_argument("--workers", type=int, default=min(8, (os.cpu_count() or 1) // 2), help="that compile first")
    parser.add_argument("--forward", action="store_true", help="only the forward pass")
    parser.add_argument("--cold", action="store_true", help="empty the device's cache before each run")
    parser.add_argument("--tiles", action="store_true", help="try other tiles of the band kernel, forward only")
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="keep the records there")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only put its records' table into the page")
    options = parser.parse_args()
    if options.draw:
        text = f"<!-- made: attention-bench -->\n{summary(options.draw)}\n<!-- end: attention-bench -->"
        marked = r"<!-- made: attention-bench -->.*?<!-- end: attention-bench -->"
        page = re.sub(marked, lambda _: text, PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
        PAGE.write_text(page, encoding="utf-8")
        return
    device = torch.device("cpu" if options.tiny else "cuda")
    if not options.tiny and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device here.", "Use --tiny to see that it runs.")
    rows = [
        (case.tiny() if options.tiny else case, train)
        for case in cases()
        for train in ((False,) if options.forward or options.tiles else (False, True))
        if (not options.case or case.name in options.case) and train <= case.train
    ]
    if options.workers > 1:
        compile_first(rows, device, options.workers, options.limit / 2)
    for case, train in rows:
        if time.monotonic() - started > options.limit:
            print(f"not run: {case.name}, {'train' if train else 'forward'}: the time is over", flush=True)
            continue
        try:
            report = bench(case, device, options, train=train)
            print(report.text(), end="\n\n", flush=True)
            record: dict[str, Any] = report.as_dict()
        except Exception as error:
            record = {"model": f"attention: {case.name}", "error": f"{type(error).__name__}: {error}"}
            print(f"{record['model']}: {record['error'][:500]}", end="\n\n", flush=True)
        if options.json:
            options.json.mkdir(parents=True, exist_ok=True)
            name = f"bench-attention-{case.name}-{'train' if train else 'forward'}{'-cold' * options.cold}.json"
            text = json.dumps(record, indent=1, default=_plain)
            (options.json / name).write_text(text + "\n", encoding="utf-8")
        torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def summary(folder: Path) -> str:
    """Return a table of the records in a folder: medians in microseconds, the floor first."""
    columns = ["auto", "sdpa", "flex", "band", "formula, compiled", "sdpa without mask and bias"]
    lines = ["| case | floor | " + " | ".join(columns) + " |", "|---" + "|--:" * (len(columns) + 1) + "|"]
    places = set()
    for case in cases():
        for kind in ("forward", "train"):
            path = folder / f"bench-attention-{case.name}-{kind}.json"
            if not path.is_file():
                continue
            record = json.loads(path.read_text(encoding="utf-8"))
            name = f"{case.name}, {kind}"
            if "error" in record:
                lines.append(f"| {name} | {record['error'].splitlines()[0][:80]} |" + " |" * len(columns))
                continue
            places.add(f"{record['facts'].get('gpu', 'cpu')}, torch {record['facts']['versions']['torch']}")
            ways = {way["name"]: way for way in record["ways"]}
            floors = [way["floor"]["seconds"] for way in ways.values() if way["floor"]]
            cells = [f"{1e6 * floors[0]:.0f}" if floors else ""]
            for column in columns:
                way = ways.get(column, {"median_seconds": None, "agrees": True})
                shown = "" if way["median_seconds"] is None else f"{1e6 * way['median_seconds']:.0f}"
                cells.append(shown if way["agrees"] else "differs")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Medians in microseconds, bf16, on {' and '.join(sorted(places)) or 'nothing'}."])


def compile_first(rows: Sequence[tuple[Case, bool]], device: torch.device, workers: int, limit: float) -> None:
    """Fill the cache of PyTorch's compiler, a case a process; it may fail, as each case is tried again."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the processes are enough
    started = time.monotonic()
    with get_context("spawn").Pool(workers) as pool:  # leaving it ends what is still at work
        for left in [pool.apply_async(compiled_once, (case, device, train)) for case, train in reversed(rows)]:
            left.wait(max(0.0, started + limit - time.monotonic()))
    print(f"compiled in {time.monotonic() - started:.0f} s", end="\n\n", flush=True)


def compiled_once(case: Case, device: torch.device, train: bool) -> None:
    """Run what compiles of a case."""
    for found in ways(Inputs(case, device, train=train), tiles=False)[0]:
        if found.name in COMPILED:
            with suppress(Exception):
                found.run()


def bench(case: Case, device: torch.device, options: argparse.Namespace, *, train: bool) -> BenchReport:
    """Time one case."""
    inputs = Inputs(case, device, train=train)
    told = explain(
        inputs.q.shape,
        inputs.k.shape[:1] + inputs.v.shape[1:2] + inputs.k.shape[2:],
        v_shape=inputs.v.shape,
        mask=case.mask,
        bias=inputs.bias,
        dtype=torch.bfloat16,
        device=device,
        grad=train,
    )
    found, missing = ways(inputs, tiles=options.tiles)
    what = "forward and backward" if train else "forward"
    return compare(
        found,
        reference=way("formula by blocks, fp32", inputs.by("chunked")),
        model=f"attention: {case.name}",
        size=f"{' x '.join(map(str, case.shape))}, {told.density:.0%} of the tiles, {what}"
        + (", caches emptied" if options.cold else ""),
        device=device,
        rounds=options.rounds,
        at_most=CASE_SECONDS,
        between=torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device).zero_ if options.cold else None,
        flops=round(told.flops * (3.5 if train else 1)),
        moved_bytes=2 * told.moved_bytes * (3 if train else 1),  # compare counts in fp32 and halves for bf16
        not_run=missing,
    )


def _plain(x: object) -> object:
    if isinstance(x, np.generic):
        return x.item()
    return list(x) if isinstance(x, Sequence) else str(x)


if __name__ == "__main__":
    main()
