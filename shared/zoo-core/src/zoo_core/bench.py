"""Paired timings: outputs are compared first, then the ways run in turns in one process, A B C A B C.

On a shared machine single times mean little: what disturbs one way disturbs its neighbours of the same round too. So
the figure to trust is the ratio pair by pair, with its spread; the least time says what the machine can do when left
alone.
"""

from __future__ import annotations

import gc
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from zoo_core.errors import UsageError
from zoo_core.train.hardware import describe_hardware, wait_for
from zoo_core.train.record import commit, now, versions

Pixels = NDArray[Any]
Number = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Limits(NamedTuple):
    """How far an output may be from the reference's before it no longer is the same output.

    Args:
        most: largest difference of one value.
        share: of values that differ at all.
        rms: root of the mean square difference.
    """

    most: float
    share: float
    rms: float


class Difference(NamedTuple):
    """How far an output is from the reference's; see `Limits`."""

    most: float
    share: float
    rms: float

    @classmethod
    def between(cls, output: Pixels, reference: Pixels) -> Difference:
        """Compare two arrays of one shape, value by value."""
        distance = np.abs(output.astype(np.float64) - reference.astype(np.float64))
        return cls(float(distance.max()), float(np.mean(distance > 0)), float(np.sqrt(np.mean(distance**2))))

    def within(self, limits: Limits) -> bool:
        """Whether no figure is above its limit; NaN never is within."""
        return all(mine <= limit for mine, limit in zip(self, limits, strict=True))


@dataclass(frozen=True)
class Way:
    """One way to compute the same thing.

    Args:
        name: for the table.
        run: computes once; on CUDA it may return before the device is done.
        output: turns what `run` returned into the array that is compared.
        limits: what counts as agreement with the reference; None for another network, which is not compared.
        precision: of the arithmetic; decides the floor.
        note: what a reader should know of it.
    """

    name: str
    run: Callable[[], Any]
    output: Callable[[Any], Pixels]
    limits: Limits | None
    precision: Number = "fp32"
    note: str = ""


class NotRun(NamedTuple):
    """A way that could not run here, and why, or how to get it."""

    name: str
    why: str


class Floor(NamedTuple):
    """The least time that the arithmetic and the memory of this machine allow, by rates measured in the same process.

    Args:
        seconds: the larger of operations over their rate and bytes over theirs.
        flops_per_second: of a large matrix product or convolution.
        bytes_per_second: of a copy, bytes read and written.
    """

    seconds: float
    flops_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Timing:
    """How one way did.

    Args:
        way: name.
        difference: from the reference; None for the reference itself and for other networks.
        agrees: whether it is within the way's limits; a way that is not has no times.
        seconds: one figure a round.
        ratios: the first way's time over this one's, round by round.
        first_seconds: of the first call, which compiles and warms up.
        memory_bytes: by how much the first call raised the memory of the process (CPU) or of the tensors (CUDA).
        floor: None if the work was not stated.
        precision: of the arithmetic.
        note: what a reader should know.
    """

    way: str
    difference: Difference | None
    agrees: bool
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    first_seconds: float
    memory_bytes: int | None
    floor: Floor | None
    precision: Number
    note: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything, with medians, as JSON has it."""
        return {
            "name": self.way,
            "precision": self.precision,
            "agrees": self.agrees,
            "difference": self.difference and self.difference._asdict(),
            "median_seconds": statistics.median(self.seconds) if self.seconds else None,
            "least_seconds": min(self.seconds, default=None),
            "median_ratio": statistics.median(self.ratios) if self.ratios else None,
            "seconds": list(self.seconds),
            "ratios": list(self.ratios),
            "first_seconds": self.first_seconds,
            "memory_bytes": self.memory_bytes,
            "floor": self.floor and self.floor._asdict(),
            "note": self.note,
        }


@dataclass(frozen=True)
class BenchReport:
    """The outcome of one bench.

    Args:
        model: id.
        size: what was computed, in words.
        timings: the one to which ratios refer first.
        not_run: what could not.
        facts: hardware, threads, load, versions: what a reader needs to judge the figures.
    """

    model: str
    size: str
    timings: tuple[Timing, ...]
    not_run: tuple[NotRun, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def agrees(self) -> bool:
        """Whether every way gave the output it should."""
        return all(timing.agrees for timing in self.timings)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        return {
            "model": self.model,
            "size": self.size,
            "agrees": self.agrees,
            "ways": [timing.as_dict() for timing in self.timings],
            "not_run": [missing._asdict() for missing in self.not_run],
            "facts": dict(self.facts),
        }

    def text(self) -> str:
        """Return the table for people."""
        head = ("way", "median ms", "least", "ratio", "(quartiles)", "of floor", "memory MB", "max", "differ", "rms")
        rows = [head, *(_row(timing) for timing in self.timings)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.model}, {self.size}, {self.facts.get('device', '')}, {self.facts.get('threads', '?')} threads"]
        for name, *cells in rows:
            right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
        lines += [f"note: {timing.way}: {timing.note}" for timing in self.timings if timing.note]
        lines += [f"not run: {missing.name}: {missing.why}" for missing in self.not_run]
        if "load" in self.facts:
            lines.append(f"load average before and after: {self.facts['load'][0]:.1f}, {self.facts['load'][1]:.1f}")
        return "\n".join(lines)


def compare(
    ways: Sequence[Way],
    *,
    model: str,
    size: str,
    device: torch.device,
    rounds: int,
    reference: Way | None = None,
    at_most: float = math.inf,
    between: Callable[[], object] | None = None,
    flops: int | None = None,
    moved_bytes: int = 0,
    not_run: Sequence[NotRun] = (),
    progress: Callable[[int, int], None] | None = None,
) -> BenchReport:
    """Compare the outputs of the ways with the reference's, then time in turns those that agree.

    Args:
        ways: the one to which ratios refer first; it also is the reference if no other is given.
        model: id, for the report.
        size: what is computed, in words.
        device: what is waited for; times on CUDA are between events.
        rounds: how often each way runs after its first call.
        reference: computes what all outputs are compared with, and is not timed.
        at_most: seconds after which no further round begins.
        between: called before each timed run and not timed: to empty a device's cache, say.
        flops: operations of one run, 2 a multiply-add, for the floor; None for no floor.
        moved_bytes: what one fp32 run must at least read and write; half of it counts for half precision.
        not_run: ways that the caller could not make.
        progress: told how many runs are done, of how many.

    Raises:
        UsageError: there is no way, or no round.
    """
    if not ways or rounds < 1:
        raise UsageError("A bench needs at least one way and one round.", "Give --rounds 1 or more.")
    total, done = len(ways) * (rounds + 1), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    loads = [_load()]
    firsts: list[tuple[Way, float, int | None, Difference | None, bool]] = []
    missing, expected = list(not_run), None
    if reference is not None:
        expected = reference.output(_first(reference, device)[2])
    truth = reference or ways[0]
    for way in ways:
        try:
            first_seconds, memory_bytes, result = _first(way, device)
        except Exception as error:
            if way is truth:
                raise
            missing.append(NotRun(way.name, f"{type(error).__name__}: {_line(error)}"))
            continue
        finally:
            step()
        output = way.output(result)
        difference = None
        if expected is None:
            expected = output
        elif way.limits is not None:
            difference = Difference.between(output, expected)
        agrees = way is truth or way.limits is None or (difference is not None and difference.within(way.limits))
        firsts.append((way, first_seconds, memory_bytes, difference, agrees))

    timed = [way for way, _, _, _, agrees in firsts if agrees]
    seconds: dict[str, list[float]] = {way.name: [] for way in timed}
    start = time.perf_counter()
    for _ in range(rounds):
        if time.perf_counter() - start > at_most:
            break
        for way in timed:
            if between is not None:
                between()
            seconds[way.name].append(_seconds(way.run, device))
            step()
    loads.append(_load())

    floors = _floors({way.precision for way in timed}, device, flops, moved_bytes)
    base = seconds[timed[0].name] if timed else []
    timings = tuple(
        Timing(
            way.name,
            difference,
            agrees,
            tuple(seconds.get(way.name, ())),
            tuple(a / b for a, b in zip(base, seconds.get(way.name, ()), strict=False)),
            first_seconds,
            memory_bytes,
            floors.get(way.precision) if way.limits is not None or way is truth else None,
            way.precision,
            way.note if agrees else f"DIFFERS from {truth.name}: not timed. {way.note}".strip(),
        )
        for way, first_seconds, memory_bytes, difference, agrees in firsts
    )
    facts = {**describe_hardware(device, processes=1), "rounds": rounds, "load": loads, "flops": flops}
    facts |= {"versions": versions(), "commit": commit(), "ended": now()}
    return BenchReport(model, size, timings, tuple(missing), facts)


def _first(way: Way, device: torch.device) -> tuple[float, int | None, Any]:
    """Run once; return seconds, how much memory rose, and the result."""
    gc.collect()
    before = _memory_before(device)
    start = time.perf_counter()
    result = way.run()
    wait_for(device)
    return time.perf_counter() - start, _memory_after(device, before), result


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Time one run, by events on CUDA."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _floors(precisions: set[Number], device: torch.device, flops: int | None, moved_bytes: int) -> dict[Number, Floor]:
    """Return the floor of every precision in use."""
    if flops is None:
        return {}
    copied_per_second = _copy_rate(device)
    floors = {}
    for precision in precisions:
        rate = _flop_rate(device, _DTYPES[precision])
        moved = moved_bytes * _DTYPES[precision].itemsize / 4
        floors[precision] = Floor(max(flops / rate, moved / copied_per_second), rate, copied_per_second)
    return floors


def _flop_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best rate of a matrix product and of a convolution, in operations a second."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    channels, edge = 64, 128
    maps = torch.randn(1, channels, edge, edge, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    product = _least(lambda: left @ right, device)
    convolution = _least(lambda: torch.nn.functional.conv2d(maps, kernel, padding=1), device)
    return max(2 * side**3 / product, 2 * 9 * channels**2 * edge**2 / convolution)


def _copy_rate(device: torch.device) -> float:
    """Return the rate of a copy that no cache holds, in bytes read and written a second."""
    source = torch.zeros((1 << 30) if device.type == "cuda" else (1 << 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _least(lambda: target.copy_(source), device)


def _least(run: Callable[[], Any], device: torch.device, *, times: int = 12) -> float:
    run()
    return min(_seconds(run, device) for _ in range(times))


def _memory_before(device: torch.device) -> int | None:
    """Start to watch the peak of memory; return what is in use, None where the system does not say."""
    if device.type == "cuda":
        wait_for(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again from what is in use
        return _status_bytes("VmRSS")
    except OSError:
        return None


def _memory_after(device: torch.device, before: int | None) -> int | None:
    if before is None:
        return None
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status_bytes("VmHWM")) - before


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"no {name} in /proc/self/status")
    return int(found[1]) * 1024


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _line(error: BaseException) -> str:
    """Return the first line of an error, short."""
    return (str(error).strip().splitlines() or ["no message"])[0][:160]


def _row(timing: Timing) -> tuple[str, ...]:
    memory = "-" if timing.memory_bytes is None else f"{timing.memory_bytes / 1e6:.0f}"
    far = ("-", "-", "-")
    if timing.difference:
        far = (f"{timing.difference.most:g}", f"{timing.difference.share:.3%}", f"{timing.difference.rms:.3f}")
    if not timing.seconds:
        return (timing.way, "-", "-", "-", "-", "-", memory, *far)
    median, least = statistics.median(timing.seconds), min(timing.seconds)
    ratios = sorted(timing.ratios)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    floor = f"{least / timing.floor.seconds:.2f} x" if timing.floor else "-"
    return (
        timing.way,
        f"{median * 1e3:.4g}",
        f"{least * 1e3:.4g}",
        f"{statistics.median(ratios):.2f}",
        f"({low:.2f}-{high:.2f})",
        floor,
        memory,
        *far,
    )
