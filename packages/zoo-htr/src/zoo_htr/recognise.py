"""From pictures of lines to log-probabilities, results in the order of the input.

On a CPU the lines run beside each other, one a thread, through an engine of `backends`; elsewhere, and where that does
not fit, in batches of like widths through the network itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from zoo_htr.backends import STEP, Bounds, fastest
from zoo_htr.htr_jand import HTRJAND
from zoo_htr.normalise import Pixels, prepare, standardise, standardise_one

LEAST_SIDE = 8  # pixels; what is lower or narrower is no writing
LONGEST = 4096  # columns that the network gets at once
OVERLAP = 64  # columns that two parts of a longer line share
SEARCH = 512  # columns in which the place of a cut is looked for
STRIDE = 4  # columns a frame
RUN = 4  # lines that a thread reads before it takes the next; more would leave others idle at the end

Picture: TypeAlias = Pixels | Callable[[], Pixels]


@dataclass(frozen=True)
class _Part:
    """Columns [start, end) of a prepared line."""

    line: int
    start: int
    end: int


class LineReader:
    """Runs a network over lines.

    Args:
        network: in evaluation mode, in the precision that it is to run in.
        device: where it is.
        pixels: columns of a batch, padding included: what bounds the memory.
        deterministic: every line alone on a canvas of its size class: the same bits whatever else is read with it.
            The engines for CPUs do that anyway.
        plain: run the network as it is, in batches, where an engine would do the same faster.
        precision: int8 for 8 bits, of a network in float32; all others are the network's own.
        bounds: for int8: those of the network's calibration; without them it is slower.

    Raises:
        UsageError: this machine cannot compute in int8.
    """

    def __init__(
        self,
        network: HTRJAND,
        *,
        device: torch.device | str = "cpu",
        pixels: int = 1 << 14,
        deterministic: bool = False,
        plain: bool = False,
        precision: str = "fp32",
        bounds: Bounds | None = None,
    ) -> None:
        self.network, self.device, self.pixels = network, torch.device(device), pixels
        self.deterministic = deterministic
        self.dtype = network.head.weight.dtype
        self.engine = None if plain else fastest(network, precision, bounds)

    @property
    def described(self) -> str:
        """What computes, in words, for files that say what read them."""
        return "the network" if self.engine is None else self.engine.described

    def log_probs(self, lines: Sequence[Picture]) -> list[Tensor]:
        """Read lines.

        Args:
            lines: (h, w) uint8 each, any size; see `zoo_htr.normalise.prepare`. Or functions that give them, which are
                called beside the computation. Lines beyond 4,096 columns (at the network's height) are read in parts
                that overlap, cut where there is little ink.

        Returns:
            for each line log-probabilities (T, V), float32, on the CPU; T = 0 for pictures below 8 pixels.
        """
        if self.engine is None:
            return self._in_batches(lines)
        with _threads(len(lines)) as each:
            prepared = list(each(self._prepared, lines))
            # a thread takes some of one canvas at a time, as engines have to prepare for each
            runs = list(_runs([0 if line is None else line.shape[1] for line in prepared]))
            read = each(self._read_run, [[prepared[i] for i in run] for run in runs])
            results = {
                i: logs for run, found in zip(runs, read, strict=True) for i, logs in zip(run, found, strict=True)
            }
        return [results[i] for i in range(len(lines))]

    def _in_batches(self, lines: Sequence[Picture]) -> list[Tensor]:
        prepared = [self._prepared(line) for line in lines]
        parts = [part for i, line in enumerate(prepared) if line is not None for part in _parts(i, line)]
        read: dict[_Part, Tensor] = {}
        for batch in self._batches(parts):
            pictures = [line[:, p.start : p.end] for p in batch if (line := prepared[p.line]) is not None]
            read |= zip(batch, self._run(pictures), strict=True)
        results = [torch.empty(0, len(self.network.alphabet)) for _ in lines]
        for part in parts:
            results[part.line] = _joined(results[part.line], read[part], part.start // STRIDE)
        return results

    def _prepared(self, picture: Picture) -> Pixels | None:
        """Return a line at the network's height; None if it is too small to hold writing."""
        line = picture() if callable(picture) else picture
        return prepare(line, height=self.network.height) if min(line.shape) >= LEAST_SIDE else None

    def _read_run(self, lines: Sequence[Pixels | None]) -> list[Tensor]:
        return [self._read_alone(line) for line in lines]

    @torch.inference_mode()
    def _read_alone(self, line: Pixels | None) -> Tensor:
        """Read one prepared line through the engine."""
        assert self.engine is not None  # noqa: S101 (for mypy)
        result = torch.empty(0, len(self.network.alphabet))
        if line is None:
            return result
        for part in _parts(0, line):
            fresh = self.engine(standardise_one(line[:, part.start : part.end])).log_softmax(1)
            result = _joined(result, fresh, part.start // STRIDE)
        return result

    def _batches(self, parts: list[_Part]) -> Iterator[list[_Part]]:
        """Yield parts of like widths, the widest first, so that the largest need of memory shows at once."""
        batch: list[_Part] = []
        for part in sorted(parts, key=lambda p: p.start - p.end):
            canvas = _canvas(batch[0].end - batch[0].start) if batch else 0
            if batch and (self.deterministic or canvas * (len(batch) + 1) > self.pixels):
                yield batch
                batch = []
            batch.append(part)
        if batch:
            yield batch

    @torch.inference_mode()
    def _run(self, pictures: list[Pixels]) -> list[Tensor]:
        widths = torch.tensor([picture.shape[1] for picture in pictures])
        canvas = np.zeros((len(pictures), self.network.height, -(-int(widths.max()) // STEP) * STEP), np.uint8)
        for row, picture in zip(canvas, pictures, strict=True):
            row[:, : picture.shape[1]] = picture
        widths = widths.to(self.device)
        shades = standardise(torch.from_numpy(canvas).to(self.device), widths).to(self.dtype)
        logits, lengths = self.network(shades, widths)
        results = logits.float().log_softmax(2).cpu()
        return [row[:n] for row, n in zip(results, lengths.tolist(), strict=True)]


@contextmanager
def _threads(lines: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Give a `map` over lines with as many threads as PyTorch would use for one; each computes with a single one."""
    threads = torch.get_num_threads()
    if threads == 1 or lines < threads:
        yield map
        return
    try:
        with ThreadPoolExecutor(threads, "zoo-htr", torch.set_num_threads, (1,)) as pool:
            yield pool.map
    finally:
        # the number is each thread's own, but those that start from now on would begin with the last one that was set
        torch.set_num_threads(threads)


def _runs(widths: Sequence[int]) -> Iterator[list[int]]:
    """Yield numbers of lines with one canvas, a few at a time, the widest first."""
    order = sorted(range(len(widths)), key=lambda i: -widths[i])
    for _, same in groupby(order, key=lambda i: _canvas(widths[i])):
        numbers = list(same)
        yield from (numbers[at : at + RUN] for at in range(0, len(numbers), RUN))


def _canvas(width: int) -> int:
    return -(-width // STEP) * STEP


def _parts(index: int, line: Pixels) -> Iterator[_Part]:
    """Yield the parts of a line: one, or overlapping ones that begin at whole frames and are cut where ink is least."""
    width, start = line.shape[1], 0
    ink = 255 - line.mean(axis=0) if width > LONGEST else np.zeros(0)
    # the ink around a place counts, as the overlap must not lie on a letter either
    around = np.convolve(ink, np.ones(OVERLAP), mode="same") if len(ink) else ink
    while width - start > LONGEST:
        last = start + LONGEST - OVERLAP // 2
        cut = last - SEARCH + int(around[last - SEARCH : last].argmin())
        yield _Part(index, start, cut + OVERLAP // 2)
        start = (cut - OVERLAP // 2) // STRIDE * STRIDE
    yield _Part(index, start, width)


def _joined(known: Tensor, fresh: Tensor, at: int) -> Tensor:
    """Join log-probabilities (T, V): the later ones begin at frame `at`; where both are, one fades into the other."""
    if not at:
        return fresh
    shared = len(known) - at
    weight = torch.linspace(0, 1, shared + 2)[1:-1, None]
    both = torch.logaddexp(known[at:] + (1 - weight).log(), fresh[:shared] + weight.log())
    return torch.cat([known[:at], both, fresh[shared:]])
